"""Everything that one command says, as one checked value that a PNG can carry."""

from __future__ import annotations

import math
import os
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from sdxl.commands import rules
from sdxl.commands.fields import TURBO_SCALE, TURBO_STEPS, Fields
from sdxl.commands.picture_rules import check_pictures
from sdxl.commands.weight_rules import check_weights
from sdxl.errors import InputError

__all__ = ["Settings"]

# Settings that do not change the picture, and a session, which has changed by the time the picture is written.
UNSAVED = ("mode", "output_path", "json", "macs_only", "runs", "session", "undo", "budget", "n")


@dataclass(frozen=True)
class Settings(Fields):
    """The task, pictures, prompts, weights and numbers of a command; `None` and `()` mean that a setting is left out.

    Raises `InputError` for a value that does not exist, for one that is missing, and for one without any effect.

    >>> settings = Settings(task="img2img", prompt="a horse", init_img=Path("a.png"), output_path=Path("b.png"), seed=1)
    >>> Settings.from_dict(settings.to_dict() | {"output_path": "b.png"}) == settings
    True
    """

    def __post_init__(self) -> None:
        rules.check(self)
        if self.generates:
            check_pictures(self)
            check_weights(self)

    def to_dict(self) -> dict[str, Any]:
        """The settings that the picture depends on, as JSON can hold them; the output path is not among them."""
        said = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in UNSAVED}
        return {name: _plain(value) for name, value in said.items() if value not in (None, ())}

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Settings:
        """The settings that `to_dict` or a command line gave; turbo has fewer steps and no guidance by default.

        >>> Settings.from_dict({"mode": "profile_unet", "run_type": "turbo"}).steps
        4
        """
        hints = get_type_hints(cls)
        for name in values:
            if name not in hints:
                raise InputError(rules.unknown("settings", name, tuple(hints)))
        said = {name: _typed(name, value, hints[name]) for name, value in values.items()}
        if str(said.get("run_type", "")).endswith("turbo"):
            said = {"steps": TURBO_STEPS, "scale": TURBO_SCALE} | said
        return cls(**said)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _typed(name: str, value: Any, hint: Any) -> Any:
    """The value, converted to a type of its field: JSON has neither paths nor tuples, and a PNG may hold anything."""
    kinds = (hint,) if get_origin(hint) is tuple or isinstance(hint, type) else get_args(hint)
    if isinstance(value, list):
        value = tuple(value)
    if isinstance(value, (str, Path)) and Path in kinds:
        value = _path(name, value)
    if isinstance(value, int) and not isinstance(value, bool) and float in kinds:
        value = float(value) if abs(value) < 2**1023 else math.inf
    if not any(_is_of(value, kind) for kind in kinds):
        raise InputError(f"{rules.flag(name)}: got {reprlib.repr(value)}, expected {_wanted(kinds)}")
    return value


def _path(name: str, value: str | Path) -> Path:
    """The path; a name that no file can have, as only a picture's settings hold it, is refused."""
    try:
        if b"\0" not in os.fsencode(value):
            return Path(value)
    except UnicodeEncodeError:
        pass
    raise InputError(f"{rules.flag(name)}: got {str(value)!r}, expected the name of a file: correct it")


def _is_of(value: Any, kind: Any) -> bool:
    if get_origin(kind) is not tuple:
        return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    item, *rest = get_args(kind)
    right_length = rest == [...] or len(rest) + 1 == len(value) if isinstance(value, tuple) else False
    return right_length and all(_is_of(part, item) for part in value)


def _wanted(kinds: tuple[Any, ...]) -> str:
    words = {str: "text", bool: "true or false", int: "a whole number", float: "a number", Path: "the name of a file"}
    return " or ".join(words.get(kind, "a list") for kind in kinds if kind is not type(None))
