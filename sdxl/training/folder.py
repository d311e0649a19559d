"""A user's own pictures: a folder with a metadata.jsonl, as the `imagefolder` convention has it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from sdxl.errors import InputError
from sdxl.pictures.images import load_image, opened, resize, size_of, size_text
from sdxl.training.pictures import Picture, as_pixels
from sige.sizes import Size

__all__ = ["METADATA", "Captioned", "FolderPictures", "read_metadata"]

METADATA = "metadata.jsonl"
_EXAMPLE = '{"file_name": "horse.jpg", "text": "a horse on a meadow"}'
_MOST_LINE = 100_000  # characters; a caption has a few hundred


@dataclass(frozen=True)
class Captioned:
    """One line of the metadata: a picture and its caption."""

    path: Path
    caption: str
    where: str  # the file and the line, for errors


def read_metadata(folder: Path) -> list[Captioned]:
    """The entries of the metadata, in the order of its lines. Blank lines and unknown keys are ignored."""
    path = folder / METADATA
    if not path.is_file():
        raise InputError(f"{path} does not exist: expected a line for each picture in the folder, such as {_EXAMPLE}")
    entries = []
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:  # texts may hold other line ends
            number = 0
            while line := file.readline(_MOST_LINE + 1):
                number += 1
                where = f"{path}, line {number}"
                if len(line) > _MOST_LINE:
                    raise InputError(f"{where}: is longer than {_MOST_LINE:,} characters, expected {_EXAMPLE}")
                if line.strip():
                    entries.append(_captioned(folder, line, where))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}), expected text in UTF-8: save it as such") from error
    if not entries:
        raise InputError(f"{path} names no pictures, expected a line for each, such as {_EXAMPLE}")
    return entries


def _captioned(folder: Path, line: str, where: str) -> Captioned:
    try:
        content = json.loads(line)
        name, text = (_text(content, key) for key in ("file_name", "text"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: is no JSON that can be read ({error}), expected {_EXAMPLE}") from error
    except KeyError as error:
        raise InputError(f"{where}: has no text under {error}, expected {_EXAMPLE}") from error
    if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
        raise InputError(f"{where}: {name} is outside the folder {folder}: copy or link the picture into it")
    try:
        exists = (folder / name).is_file()
    except OSError:  # the name is too long, or its folder may not be entered
        exists = False
    if not exists:
        raise InputError(f"{where}: {folder / name} does not exist: correct the name, or remove the line")
    return Captioned(folder / name, text, where)


def _text(content: Any, key: str) -> str:
    """The text under the key. JSON can spell halves of characters, which neither UTF-8 nor a tokenizer takes."""
    if not isinstance(content, dict) or not isinstance(content.get(key), str):
        raise KeyError(key)
    text: str = content[key]
    text.encode()  # raises UnicodeEncodeError, a ValueError
    return text


class FolderPictures:
    """The pictures of a folder, each scaled down until it just covers the training size and cut at random."""

    def __init__(self, folder: Path, height: int, width: int, *, flip: bool = False) -> None:
        self.folder = folder
        self.size = (height, width)
        self.flip = flip
        self.entries = read_metadata(folder)
        for entry in self.entries:
            self._check_header(entry)

    def __len__(self) -> int:
        return len(self.entries)

    def picture(self, index: int, rng: np.random.Generator) -> Picture:
        """A random cut of the picture, mirrored every other time with `flip`.

        Its sizes are the ones that SDXL is told: the file's own, the corner of the cut, the training size.
        """
        entry, (height, width) = self.entries[index], self.size
        image = self._open(entry)
        own = size_of(image)
        image = _covering(image, self.size)
        if self.flip and rng.random() < 0.5:
            image = ImageOps.mirror(image)
        top, left = (int(rng.integers(have - want + 1)) for have, want in zip(size_of(image), self.size, strict=True))
        pixels = as_pixels(image.crop((left, top, left + width, top + height)))
        return Picture(pixels, (*own, top, left, height, width))

    def caption(self, index: int, rng: np.random.Generator) -> str:
        """The text in the picture's line; `rng` is not used."""
        return self.entries[index].caption

    def describe(self) -> dict[str, Any]:
        """The names, lengths and times of the files. Captions are left out, because each run reads them again."""
        files = [(entry.path, entry.path.stat()) for entry in self.entries]
        named = [[str(path.relative_to(self.folder)), stat.st_size, stat.st_mtime_ns] for path, stat in files]
        return {"folder": named, "size": list(self.size), "flip": self.flip}

    def identity(self) -> list[Any]:
        """The names, lengths and captions of the pictures."""
        return [
            [str(entry.path.relative_to(self.folder)), entry.path.stat().st_size, entry.caption]
            for entry in self.entries
        ]

    def _open(self, entry: Captioned) -> Image.Image:
        try:
            image = load_image(entry.path)
        except InputError as error:
            raise InputError(f"{entry.where}: {error}") from error
        self._check_size(entry, size_of(image))
        return image

    def _check_header(self, entry: Captioned) -> None:
        """Refuses a file that is no picture or too small, before hours of encoding.

        EXIF may turn the picture, so it is too small only if it does not cover the training size either way.
        """
        try:
            with opened(entry.path) as image:
                size = size_of(image)
        except InputError as error:
            raise InputError(f"{entry.where}: {error}") from error
        if not _covers(size[::-1], self.size):
            self._check_size(entry, size)

    def _check_size(self, entry: Captioned, size: Size) -> None:
        if not _covers(size, self.size):
            raise InputError(
                f"{entry.where}: {entry.path} is {size_text(size)}, expected at least {size_text(self.size)}: "
                "take a larger picture, or a smaller data.side"
            )


def _covers(size: Size, wanted: Size) -> bool:
    return size[0] >= wanted[0] and size[1] >= wanted[1]


def _covering(image: Image.Image, wanted: Size) -> Image.Image:
    """The picture scaled down so that it just covers the wanted size: one side is equal, the other at least as long."""
    scale = max(want / have for have, want in zip(size_of(image), wanted, strict=True))
    height, width = (max(round(have * scale), want) for have, want in zip(size_of(image), wanted, strict=True))
    return image if (height, width) == size_of(image) else resize(image, height, width)
