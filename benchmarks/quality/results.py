"""Results as JSON: settings, edits, and a row of scores for each way. Written after each row, read to continue."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness import machine
from benchmarks.quality.edits import Edit
from sdxl.errors import InputError
from sige.files import atomic_write

__all__ = ["Results", "Score", "Settings"]


@dataclass(frozen=True)
class Settings:
    """The settings that all rows of a file share; rows of other settings cannot be compared with them."""

    weights: str  # name of the file
    weights_digest: str
    edits: int
    edits_digest: str
    side: int  # of the pictures
    steps: int
    scale: float
    scheduler: str


@dataclass(frozen=True)
class Score:
    """One edit, made one way, against the dense result of the same seed."""

    edit: int  # its number
    psnr: float  # inside the mask, dB; see bench.MOST
    ssim: float
    band_psnr: float  # in the band along the mask's edge
    band_ssim: float
    equal_outside: bool  # to the input, bit for bit
    work: float  # multiply-accumulates, as a share of the dense edit's
    seconds: float
    dense_seconds: float  # of the dense edit, whenever that was made


@dataclass
class Results:
    """The rows so far, in the order in which they were measured."""

    settings: Settings
    edits: Sequence[Edit]
    rows: dict[str, list[Score]] = field(default_factory=dict)
    notes: dict[str, dict[str, Any]] = field(default_factory=dict)  # where and when each row was measured

    def add(self, name: str, scores: list[Score]) -> None:
        """Adds a row of this sitting."""
        facts = machine()
        self.rows[name] = scores
        self.notes[name] = {key: facts[key] for key in ("cpu", "threads", "torch", "diffusers", "commit")}

    def write(self, path: Path) -> None:
        """Writes the file whole or not at all: a sitting may end at any moment."""
        shown = ("number", "shape", "asks", "prompt", "share")
        content = {
            "machine": machine(),
            "settings": asdict(self.settings),
            "edits": [{name: getattr(edit, name) for name in shown} for edit in self.edits],
            "rows": [
                {"row": name, "measured": self.notes[name], "scores": [asdict(score) for score in scores]}
                for name, scores in self.rows.items()
            ],
        }
        with atomic_write(path, parents=True) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")

    def read(self, path: Path) -> None:
        """Reads the rows of a file; refuses rows that were measured with other settings."""
        try:
            content = json.loads(path.read_text())
            before, rows = content["settings"], content["rows"]
            now = asdict(self.settings)
            if differing := [
                f"{key} {before.get(key)!r}, now {now[key]!r}" for key in now if before.get(key) != now[key]
            ]:
                raise InputError(
                    f"--json: {path} has rows of other settings ({'; '.join(differing)}): name another file, or take "
                    "the same settings"
                )
            for row in rows:
                self.rows[row["row"]] = [Score(**score) for score in row["scores"]]
                self.notes[row["row"]] = row["measured"]
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"--json: {path} is no result of this benchmark: name another file") from error
