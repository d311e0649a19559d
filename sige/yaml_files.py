"""Configurations in YAML, read as if a stranger had written them: small, not deep, and all errors of one kind.

A value `${name}` stands for another value of the same file, as OmegaConf has it. References and anchors can make a few
lines stand for more values than fit in memory, so there are no anchors, and what references make is counted.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from sige.errors import ConfigError

__all__ = ["merged", "read_yaml", "resolved"]

MOST_BYTES = 100_000
MOST_DEPTH = 30
MOST_VALUES = 10_000  # with what references stand for; the largest of our own files makes 300
_REFERENCE = re.compile(r"\$\{([\w.-]+)\}")


def read_yaml(path: Path) -> dict[str, Any]:
    """The content of the file, a mapping; references are still in it.

    >>> read_yaml(folder / "sdxl-base.yaml")["model"]["block_out_channels"]
    [320, 640, 1280]
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}), expected a YAML file") from error
    if len(data) > MOST_BYTES:
        raise ConfigError(f"{path}: is larger than {MOST_BYTES:,} bytes, expected a configuration in YAML")
    try:
        text = data.decode()
        _check_events(path, text)
        content = _load(text)
    except ConfigError:
        raise
    except Exception as error:  # the libraries raise errors of many kinds
        why = " ".join(str(error).split())[:120] or type(error).__name__
        raise ConfigError(f"{path} is no YAML that can be read: {why}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds a {type(content).__name__}, expected a mapping")
    return content


def _check_events(path: Path, text: str) -> None:
    """Refuses anchors and depth from the list of the file's events, before values are made of it."""
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ConfigError(f"{path}: has an alias, *{event.anchor}: write the value itself, or ${{name}}")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MOST_DEPTH:
            raise ConfigError(f"{path}: is nested more than {MOST_DEPTH} deep, expected a configuration")


def _load(text: str) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(OmegaConf.load(io.StringIO(text)), resolve=False)


def resolved(content: Any, where: str) -> Any:
    """A copy of the content with the values in the place of their references; `where` names it in errors.

    >>> resolved({"a": 1, "b": {"c": "${a}"}}, "plan")
    {'a': 1, 'b': {'c': 1}}
    """
    return _resolved(content, content, where, 0, count())


def _resolved(value: Any, root: Any, where: str, depth: int, made: Iterator[int]) -> Any:
    if next(made) > MOST_VALUES or depth > MOST_DEPTH:
        raise ConfigError(f"{where}: its references make a circle, or more than {MOST_VALUES:,} values: write fewer")
    if isinstance(value, dict):
        return {key: _resolved(each, root, where, depth + 1, made) for key, each in value.items()}
    if isinstance(value, list):
        return [_resolved(each, root, where, depth + 1, made) for each in value]
    if isinstance(value, str) and "${" in value:
        return _resolved(_referred(value, root, where), root, where, depth + 1, made)
    return value


def _referred(value: str, root: Any, where: str) -> Any:
    match = _REFERENCE.fullmatch(value)
    found = root
    for name in match[1].split(".") if match else ():
        found = found.get(name) if isinstance(found, dict) else None
    if match is None or found is None:
        raise ConfigError(f"{where}: {value[:80]!r} stands for nothing, expected ${{name}} of another value")
    return found


def merged(content: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The content with the changes; mappings are merged, everything else is replaced.

    >>> merged({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})
    {'a': {'b': 3, 'c': 2}}
    """
    made = dict(content)
    for key, change in changes.items():
        both = isinstance(made.get(key), Mapping) and isinstance(change, Mapping)
        made[key] = merged(made[key], change) if both else change
    return made
