"""The largest numbers that a request takes. Importable without torch and numpy, as the command line's rules are."""

from __future__ import annotations

__all__ = ["MOST_PIXELS", "MOST_SKIPPED", "STRONGEST_CONTROL"]

MOST_PIXELS = {"grow": 1024, "mask_blur": 256, "match_edge": 256, "only_masked": 4096}  # of what is done with a mask
MOST_SKIPPED = 64  # more than any text encoder has layers
STRONGEST_CONTROL = 10.0  # of a ControlNet: far beyond what makes pictures
