"""Reads a configuration, a YAML file and `key=value` from the command line, into dataclasses of known settings."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from sdxl.errors import InputError
from sige.errors import ConfigError
from sige.yaml_files import merged, read_yaml, resolved

__all__ = ["build", "read"]

_EXPECTED = {bool: "true or false", int: "a whole number", float: "a number", str: "a word", Path: "a path"}
_MOST_TEXT, _MOST_BRACKETS = 10_000, 100  # of one override


def read(path: Path, overrides: Sequence[str] = ()) -> Any:
    """The content of the file, with the values that `overrides` such as `loop.steps=10` replace."""
    if not path.is_file():
        raise InputError(f"{path} does not exist: expected a file such as configs/train/embedded-base.yaml")
    if wrong := [text for text in overrides if not text.partition("=")[1] or text.startswith("=")]:
        raise InputError(f"{wrong[0]!r} sets nothing, expected key=value such as loop.steps=10")
    try:
        return resolved(merged(read_yaml(path), _values(overrides)), str(path))
    except ConfigError as error:
        raise InputError(str(error)) from error


def _values(overrides: Sequence[str]) -> dict[str, Any]:
    """The values of `key=value` as a mapping like a file's."""
    from omegaconf import OmegaConf

    made: dict[str, Any] = {}
    for text in overrides:
        if len(text) > _MOST_TEXT or text.count("[") + text.count("{") > _MOST_BRACKETS:
            raise InputError(f"{text[:80]!r}: is too long, expected key=value such as loop.steps=10")
        try:
            made = merged(made, OmegaConf.to_container(OmegaConf.from_dotlist([text]), resolve=False))
        except Exception as error:  # the libraries raise errors of many kinds
            why = " ".join(str(error).split())[:120]
            raise InputError(f"{text!r} is no YAML that can be read ({why}), expected such as loop.steps=10") from error
    return made


def build(kind: Any, values: Any, where: str) -> Any:
    """The dataclass `kind` with these values; the error for an unknown, missing or wrong setting names it.

    >>> from sdxl.training.plan import Lora
    >>> build(Lora, {"rank": 4}, "plan.yaml: lora").rank
    4
    """
    if not isinstance(values, dict):
        raise InputError(f"{where}: got {reprlib.repr(values)}, expected a mapping")
    known = {item.name: item for item in fields(kind)}
    if unknown := sorted(str(name) for name in values if name not in known):
        raise InputError(f"{where}: no setting {unknown[0]!r}, expected some of {', '.join(sorted(known))}")
    needed = (name for name, item in known.items() if item.default is MISSING and item.default_factory is MISSING)
    if missing := [name for name in needed if name not in values]:
        raise InputError(f"{where}: the setting {missing[0]!r} is missing, and it has no default")
    hints = get_type_hints(kind)
    return kind(**{name: _value(hints[name], value, f"{where}: {name}") for name, value in values.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    """The value in the type of its annotation: an int becomes a float, a text becomes a path."""
    if is_dataclass(hint):
        return build(hint, value, where)
    options = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if value is None and type(None) in options:
        return None
    wanted = options[0]
    if wanted is str and value is False:
        return "no"  # YAML reads a bare `no` as false
    if wanted is Path and isinstance(value, str) and value:
        return Path(value)
    if wanted is float and type(value) is int:
        return float(value) if abs(value) < 2**1023 else math.inf
    if get_origin(wanted) is tuple:
        if isinstance(value, list) and all(isinstance(each, str) for each in value):
            return tuple(value)
    elif type(value) is wanted:  # not isinstance, because a bool would pass as an int
        return value
    raise InputError(f"{where}: got {reprlib.repr(value)}, expected {_EXPECTED.get(wanted, 'a list of texts')}")
