"""Checks that the configurations of policies share: each error begins with the field's name."""

from __future__ import annotations

from numbers import Integral
from typing import Any

from sige.errors import ConfigError

__all__ = ["check_bool", "check_count", "check_name", "check_steps", "is_count", "is_rising"]


def check_name(field: str, value: Any, known: tuple[str, ...]) -> None:
    """Refuses a value that is not one of the known names."""
    if value not in known:
        raise ConfigError(f"{field}: got {value!r}, expected one of {', '.join(known)}")


def check_count(field: str, value: Any, least: int) -> None:
    """Refuses a value that is not an integer of at least `least`."""
    if not is_count(value, least):
        raise ConfigError(f"{field}: got {value!r}, expected an integer of at least {least}")


def check_bool(field: str, value: Any) -> None:
    """Refuses a value that is neither True nor False."""
    if not isinstance(value, bool):
        raise ConfigError(f"{field}: got {value!r}, expected True or False")


def is_count(value: Any, least: int) -> bool:
    """Says whether the value is an integer of at least `least`; True and False are not integers here."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def check_steps(field: str, value: Any) -> None:
    """Refuses a value that is neither None nor a tuple of rising step numbers."""
    if value is not None and not (isinstance(value, tuple) and is_rising(value)):
        raise ConfigError(f"{field}: got {value!r}, expected a list of rising step numbers")


def is_rising(steps: tuple[Any, ...]) -> bool:
    """Says whether these are step numbers, each larger than the one before.

    >>> is_rising((0, 3, 4)), is_rising((3, 3)), is_rising((0, 1.5))
    (True, False, False)
    """
    return all(is_count(step, 0) for step in steps) and list(steps) == sorted(set(steps))
