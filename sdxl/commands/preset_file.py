"""A file of settings in YAML, whose keys are the names of the flags: what `--preset FILE.yaml` reads."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from sdxl.commands import rules
from sdxl.errors import InputError
from sige.errors import ConfigError
from sige.yaml_files import read_yaml

__all__ = ["is_preset_file", "preset_words"]

SUFFIXES = (".yaml", ".yml")
NOT_IN_FILES = ("from_png", "help")


def is_preset_file(word: str) -> bool:
    """Says whether the word after `--preset` names a file, and not a preset of the policy.

    >>> is_preset_file("house.yaml"), is_preset_file("fast")
    (True, False)
    """
    return word.lower().endswith(SUFFIXES)


def preset_words(path: Path, known: Collection[str], repeated: Collection[str]) -> list[str]:
    """The words of a command line that says what the file says.

    `known` holds the names of all flags, `repeated` those that may be given several times.
    """
    words = []
    for key, value in _read(path).items():
        name = str(key).replace("-", "_")
        if name not in known or name in NOT_IN_FILES:
            raise InputError(f"{path}: {key}: no such setting; {_guess(name, known)}")
        if name == "preset" and is_preset_file(str(value)):
            raise InputError(f"{path}: preset: got {value}, expected a preset's name: one file reads no other")
        if isinstance(value, list):
            items = [_as_word(path, name, item) for item in value]
            words += [f"--{name}={item}" for item in (items if name in repeated else [",".join(items)])]
        else:
            words.append(f"--{name}={_as_word(path, name, value)}")
    return words


def _read(path: Path) -> Mapping[str, Any]:
    """The mapping in the file."""
    expected = "expected YAML with one flag's name and value in each line, as ddim_steps: 30"
    try:
        content = read_yaml(path)
    except ConfigError as error:
        raise InputError(f"--preset: {error}; {expected}") from error
    if None in content.values():
        raise InputError(f"{path}: {expected}")
    return content


def _as_word(path: Path, name: str, value: Any) -> str:
    if not isinstance(value, str | bool | int | float):
        raise InputError(
            f"{path}: {name}: got a {type(value).__name__}, expected text, a number, true or false, or a list"
        )
    return str(value)


def _guess(name: str, known: Collection[str]) -> str:
    near = rules.nearest(name, [one for one in known if one not in NOT_IN_FILES])
    return f"did you mean {near}?" if near else "see run.py --help"
