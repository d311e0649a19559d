"""The presets of the temporal policy: which steps between the dense ones are skipped, and which dense ones run half.

quality   every step between runs packed
balanced  from a sixth of the call on, every second one
fast      from a third of the call on, only every third one; two of the dense steps run half

Chosen on edits that the tables do not show (docs/quality.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["PRESETS", "SHORTEST", "Preset"]

SHORTEST = 20  # steps: a shorter call changes too much from step to step to leave one out


@dataclass(frozen=True)
class Preset:
    """What a preset leaves out.

    `fills` holds pairs: from this share of the call on, the steps after a dense one repeat these codes.
    """

    fills: tuple[tuple[float, str], ...] = ((0.0, "p"),)
    half: tuple[int, ...] = ()  # of the dense steps, by their number among them

    def skipped(self, count: int, dense: Sequence[int]) -> tuple[int, ...]:
        """The steps of `count` that are skipped.

        >>> PRESETS["balanced"].skipped(30, (0, 1, 5, 10, 16, 23))
        (6, 8, 11, 13, 15, 17, 19, 21, 24, 26, 28)
        """
        if count < SHORTEST:
            return ()
        found = []
        for begin, end in zip(dense, [*dense[1:], count], strict=True):
            fill = [codes for share, codes in self.fills if begin >= share * count - 1e-9][-1]
            found += [step for step in range(begin + 1, end) if fill[(step - begin - 1) % len(fill)] == "s"]
        return tuple(found)

    def halved(self, count: int, dense: Sequence[int]) -> tuple[int, ...]:
        """The dense steps that run half.

        >>> PRESETS["fast"].halved(30, (0, 1, 5, 10, 16, 23))
        (0, 10)
        """
        return () if count < SHORTEST else tuple(dense[number] for number in self.half if number < len(dense))


PRESETS = {
    "quality": Preset(),
    "balanced": Preset(((0.0, "p"), (1 / 6, "sp"))),
    "fast": Preset(((0.0, "p"), (1 / 6, "sp"), (1 / 3, "ssp")), half=(0, 3)),
}
