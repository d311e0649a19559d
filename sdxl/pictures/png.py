"""A picture that carries the settings that made it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdxl.errors import InputError
from sdxl.pictures.images import opened, size_of
from sdxl.pictures.parameters import as_parameters, read_parameters
from sige.files import atomic_write, check_output

__all__ = ["check_png_output", "png_text", "read_settings", "save_png"]

KEY, PARAMETERS = "sige", "parameters"
MAX_TEXT = 1_000_000  # characters of JSON


def save_png(image: Image.Image, path: Path | str, settings: dict[str, Any]) -> None:
    """Writes the picture, whole or not at all, with its settings twice: as JSON, and as text that others read.

    The same picture and settings give the same bytes. Tuples come back as lists.

    >>> save_png(Image.new("RGB", (8, 8)), folder / "edit.png", {"prompt": "a horse", "seed": 53})
    >>> read_settings(folder / "edit.png")
    {'prompt': 'a horse', 'seed': 53}
    """
    check_png_output(path)
    text = png_text(image, settings, str(path))
    with atomic_write(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=text)


def png_text(image: Image.Image, settings: dict[str, Any], name: str = "the picture") -> PngInfo:
    """The texts of a PNG that carries its settings."""
    text = PngInfo()
    text.add_text(KEY, _as_json(name, settings))
    text.add_text(PARAMETERS, as_parameters(settings, size_of(image)))
    return text


def check_png_output(path: Path | str) -> None:
    """Refuses a path that `save_png` cannot write to, before anything takes time.

    Only PNG is written, because it keeps every pixel and the settings. Other formats can be made from it.
    """
    if Path(path).suffix.lower() != ".png":
        raise InputError(f"{path}: expected a name that ends in .png, which keeps every pixel and the settings")
    check_output(path)


def read_settings(path: Path | str) -> dict[str, Any]:
    """The settings in a picture that `save_png` wrote, or those that A1111's web UI wrote. The pixels are not read."""
    with opened(path, formats=("PNG",)) as image:
        text, theirs = image.info.get(KEY), image.info.get(PARAMETERS)
    for one in (text, theirs):
        if isinstance(one, str) and len(one) > MAX_TEXT:
            raise InputError(f"{path} carries {len(one):,} characters of settings, expected at most {MAX_TEXT:,}")
    if not isinstance(text, str):
        if isinstance(theirs, str):
            return read_parameters(theirs)
        raise InputError(
            f"{path} carries no settings, expected a PNG that this program or A1111's web UI wrote: give the flags "
            "instead"
        )
    try:
        settings = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: its settings are damaged, expected JSON: give the flags instead") from error
    if not isinstance(settings, dict):
        raise InputError(f"{path}: its settings are no JSON object, expected names and values: give the flags instead")
    return settings


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _as_json(name: str, settings: dict[str, Any]) -> str:
    try:
        text = json.dumps(settings, allow_nan=False, default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{name}: the settings cannot be kept as JSON: {error}") from error
    if len(text) > MAX_TEXT:
        raise InputError(f"{name}: the settings take {len(text):,} characters, expected at most {MAX_TEXT:,}")
    return text


def _plain(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"got {type(value).__name__}, expected text, numbers, lists and dictionaries")
