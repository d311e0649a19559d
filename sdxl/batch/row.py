"""Row: one edit of a batch, checked when it is made. Importable without torch."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sdxl.edits.asked import Asked, Defaults, text_flag, text_number, text_steps, text_whole
from sdxl.edits.limits import MOST_PIXELS
from sdxl.edits.request import Request
from sdxl.errors import InputError
from sdxl.pictures.images import load_image
from sdxl.pictures.masks import load_mask

__all__ = ["COLUMNS", "FORBIDDEN", "PICTURES", "Row", "fold", "row_of"]

PICTURES = ("image", "mask", "edited")
READERS: dict[str, Callable[[str, str], Any]] = {  # column -> what reads its text
    **dict.fromkeys(("prompt", "negative_prompt"), lambda name, text: text),
    **dict.fromkeys(("seed", "steps", "grow", "mask_blur", "match_edge", "only_masked"), text_whole),
    **dict.fromkeys(("scale", "strength"), text_number),
    "dense_steps": text_steps,
    "dense": text_flag,
}
COLUMNS = ("id", *PICTURES, *READERS)
FORBIDDEN = (  # a list of edits comes from anywhere: it loads no weights, and writes where the command says
    "model", "weight_path", "weights", "config_path", "lora", "vae", "textual_inversion", "controlnet", "output",
    "output_path", "out", "device", "dtype",
)  # fmt: skip
NEEDED = {"id": "a name of its own for each row", "image": "the file of the picture before the edit"}
LONGEST_ID = 150  # bytes; file systems hold 255 with what is added
_ID = re.compile(r"\w[\w .+@=-]*")


@dataclass(frozen=True)
class Row:
    """One edit: its name, its files, and what is asked for. `OUT/<id>.png` is its picture.

    >>> Row("a/b", Path("a.png"), Asked("a horse"))
    Traceback (most recent call last):
    sdxl.errors.InputError: id: got 'a/b', expected the name of a file: letters, digits, spaces and . _ - + @ =
    """

    id: str
    image: Path
    asked: Asked
    mask: Path | None = None
    edited: Path | None = None

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id) or self.id[-1] in " .":
            raise InputError(
                f"id: got {self.id[:60]!r}, expected the name of a file: letters, digits, spaces and . _ - + @ =", "id"
            )
        if len(self.id.encode()) > LONGEST_ID:
            raise InputError(f"id: has {len(self.id.encode())} bytes, expected at most {LONGEST_ID}: shorten it", "id")
        if not self.asked.prompt.strip():
            raise InputError("prompt: is missing, expected what the picture shows", "prompt")
        if self.mask is not None and self.edited is not None:
            raise InputError("mask, edited: got both, expected one of the two", "mask")
        if self.asked.seed is None:  # the same row gives the same picture, whichever worker makes it, and when
            object.__setattr__(self, "asked", replace(self.asked, seed=seed_of(self.id)))
        self._check_shaping()
        self.asked.sampling(Defaults()).strength_of(self.task)

    def _check_shaping(self) -> None:
        for name, most in MOST_PIXELS.items():
            value = getattr(self.asked, name)
            if value is not None and not 0 <= value <= most:
                raise InputError(f"{name}: got {value}, expected a number of pixels from 0 to {most}", name)
            if value and self.mask is None:
                raise InputError(f"{name}: got {value} without a mask: name one, or leave it out", name)

    @property
    def task(self) -> str:
        """The name of the task: inpainting, sdedit or img2img."""
        return "inpainting" if self.mask is not None else "img2img" if self.edited is None else "sdedit"

    @property
    def files(self) -> dict[str, Path]:
        """The files that it reads, by the names of their columns."""
        named = {name: getattr(self, name) for name in PICTURES}
        return {name: path for name, path in named.items() if path is not None}

    def check(self, defaults: Defaults) -> None:
        """Refuses what does not go with the defaults, and a file that is missing."""
        self.asked.sampling(defaults).strength_of(self.task)
        self.asked.policy(defaults)
        for name, path in self.files.items():
            if not path.is_file():
                raise InputError(f"{name}: {path} does not exist: check the name", name)

    def request(self, defaults: Defaults) -> Request:
        """The request, with its pictures read."""
        edited = None if self.edited is None else load_image(self.edited)
        mask = None if self.mask is None else load_mask(self.mask)
        return self.asked.request(defaults, load_image(self.image), mask=mask, edited=edited)

    def to_dict(self) -> dict[str, Any]:
        """The row by the names of its columns, as JSON can hold it; without what is left out."""
        asked = asdict(self.asked)
        said: dict[str, Any] = {"id": self.id, **{name: str(path) for name, path in self.files.items()}}
        said |= {name: asked["guidance_scale" if name == "scale" else name] for name in READERS}
        return {name: value for name, value in said.items() if value is not None}


def row_of(cells: Mapping[str, str], folder: Path) -> Row:
    """The row of a table's cells; paths are relative to the folder. An empty cell is one that was left out.

    >>> row_of({"id": "1", "image": "a.png", "mask": "m.png", "prompt": "a horse", "scale": "5"}, Path("in")).image
    PosixPath('in/a.png')
    """
    said = {name: text.strip() for name, text in cells.items() if text and text.strip()}
    for name in ("id", "image"):
        if name not in said:
            raise InputError(f"{name}: is missing, expected {NEEDED[name]}", name)
    values = {name: read(name, said[name]) for name, read in READERS.items() if name in said}
    if "scale" in values:
        values["guidance_scale"] = values.pop("scale")
    files = {name: _path(name, said[name], folder) for name in PICTURES if name in said}
    return Row(id=said["id"], asked=Asked(**values), **files)


def seed_of(name: str) -> int:
    """The seed of a row that names none.

    >>> seed_of("castle") == seed_of("castle") != seed_of("horse")
    True
    """
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])


def fold(name: str) -> str:
    """What two names have in common that some file systems hold for the same."""
    return unicodedata.normalize("NFC", name).casefold()


def _path(name: str, text: str, folder: Path) -> Path:
    if "\0" in text:
        raise InputError(f"{name}: got a name with a zero byte, expected the name of a file", name)
    return folder / text
