"""Checks that the configurations of policies share: each error begins with the field's name."""

from __future__ import annotations

from numbers import Integral
from typing import Any

from sige.errors import ConfigError

__all__ = ["check_bool", "check_count", "check_name", "is_count"]


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
