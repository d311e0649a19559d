"""A picture that carries the settings that made it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdxl.errors import InputError
from sdxl.pictures.images import opened
from sige.files import atomic_write, check_output

__all__ = ["check_png_output", "read_settings", "save_png"]

KEY = "sige"
MAX_TEXT = 1_000_000  # characters of JSON


def save_png(image: Image.Image, path: Path | str, settings: dict[str, Any]) -> None:
    """Writes the picture, whole or not at all, with its settings twice: as JSON, and as text for people.

    The same picture and settings give the same bytes. Tuples come back as lists.

    >>> save_png(Image.new("RGB", (8, 8)), folder / "edit.png", {"prompt": "a horse", "seed": 53})
    >>> read_settings(folder / "edit.png")
    {'prompt': 'a horse', 'seed': 53}
    """
    check_png_output(path)
    text = PngInfo()
    text.add_text(KEY, _as_json(path, settings))
    text.add_text("parameters", _as_text(settings))
    with atomic_write(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=text)


def check_png_output(path: Path | str) -> None:
    """Refuses a path that `save_png` cannot write to, before anything takes time.

    Only PNG is written, because it keeps every pixel and the settings. Other formats can be made from it.
    """
    if Path(path).suffix.lower() != ".png":
        raise InputError(f"{path}: expected a name that ends in .png, which keeps every pixel and the settings")
    check_output(path)


def read_settings(path: Path | str) -> dict[str, Any]:
    """The settings in a picture that `save_png` wrote. The pixels are not read."""
    with opened(path, formats=("PNG",)) as image:
        text = image.info.get(KEY)
    if not isinstance(text, str):
        raise InputError(f"{path} carries no settings, expected a PNG that this program wrote: give the flags instead")
    if len(text) > MAX_TEXT:
        raise InputError(f"{path} carries {len(text):,} characters of settings, expected at most {MAX_TEXT:,}")
    try:
        settings = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: its settings are damaged, expected JSON: give the flags instead") from error
    if not isinstance(settings, dict):
        raise InputError(f"{path}: its settings are no JSON object, expected names and values: give the flags instead")
    return settings


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _as_json(path: Path | str, settings: dict[str, Any]) -> str:
    try:
        text = json.dumps(settings, allow_nan=False, default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: the settings cannot be kept as JSON: {error}") from error
    if len(text) > MAX_TEXT:
        raise InputError(f"{path}: the settings take {len(text):,} characters, expected at most {MAX_TEXT:,}")
    return text


def _plain(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"got {type(value).__name__}, expected text, numbers, lists and dictionaries")


def _as_text(settings: dict[str, Any]) -> str:
    """The settings as text: the prompts on their own lines, then the rest, the form that picture viewers expect."""
    lines = [str(settings.get("prompt", ""))]
    if settings.get("negative_prompt"):
        lines.append(f"Negative prompt: {settings['negative_prompt']}")
    rest = {key: value for key, value in settings.items() if key not in ("prompt", "negative_prompt")}
    lines.append(", ".join(f"{key}: {value}" for key, value in rest.items() if value is not None))
    return "\n".join(lines).replace("\0", "").encode("utf-8", "replace").decode()  # a flag may hold broken UTF-8
