"""Reads a configuration, a YAML file and `key=value` from the command line, into dataclasses of known settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from sdxl.errors import InputError

__all__ = ["build", "read"]

_EXPECTED = {bool: "true or false", int: "a whole number", float: "a number", str: "a word", Path: "a path"}


def read(path: Path, overrides: Sequence[str] = ()) -> Any:
    """The content of the file, with the values that `overrides` such as `loop.steps=10` replace."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    if not path.is_file():
        raise InputError(f"{path} does not exist: expected a file such as configs/train/embedded-base.yaml")
    if wrong := [text for text in overrides if not text.partition("=")[1] or text.startswith("=")]:
        raise InputError(f"{wrong[0]!r} sets nothing, expected key=value such as loop.steps=10")
    try:
        content = OmegaConf.load(path)
        if not OmegaConf.is_dict(content):
            raise InputError(f"{path} holds a {type(content).__name__}, expected a mapping")
        return OmegaConf.to_container(OmegaConf.merge(content, OmegaConf.from_dotlist(list(overrides))), resolve=True)
    except InputError:
        raise
    except (OmegaConfBaseException, YAMLError, ValueError, TypeError, OSError) as error:
        raise InputError(f"{path} is no YAML that can be read: {' '.join(str(error).split())[:120]}") from error


def build(kind: Any, values: Any, where: str) -> Any:
    """The dataclass `kind` with these values; the error for an unknown, missing or wrong setting names it.

    >>> from sdxl.training.plan import Lora
    >>> build(Lora, {"rank": 4}, "plan.yaml: lora").rank
    4
    """
    if not isinstance(values, dict):
        raise InputError(f"{where}: got {values!r}, expected a mapping")
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
        return float(value)
    if get_origin(wanted) is tuple:
        if isinstance(value, list) and all(isinstance(each, str) for each in value):
            return tuple(value)
    elif type(value) is wanted:  # not isinstance, because a bool would pass as an int
        return value
    raise InputError(f"{where}: got {value!r}, expected {_EXPECTED.get(wanted, 'a list of texts')}")
