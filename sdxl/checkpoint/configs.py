"""The shapes of a checkpoint's parts, from `configs/*.yaml`.

A section that is a name stands for the `model` section of the config of that name. A config of smaller copies, such as
`tiny.yaml`, has one section per kind with the settings that differ from `<kind>.yaml`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sdxl.checkpoint.bounds import check_bounds
from sdxl.errors import InputError
from sige import config_files
from sige.errors import ConfigError
from sige.yaml_files import merged, read_yaml, resolved

__all__ = ["FULL_SIZE", "KINDS", "PARTS", "Shapes", "config_folder", "load_shapes"]

KINDS = ("sdxl-base", "sdxl-turbo", "sdxl-refiner", "sdxl-inpaint", "sd15", "sd15-inpaint")
PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")  # by the names that diffusers gives them
SECTIONS = {"unet": "model", "vae": "vae", "text_encoder": "text_encoder", "text_encoder_2": "text_encoder_2"}
FULL_SIZE = "full"


@dataclass(frozen=True)
class Shapes:
    """The settings that the parts of one kind are built from."""

    kind: str
    parts: dict[str, dict[str, Any]]  # a part that the kind does not have is missing
    scheduler: dict[str, Any]


def config_folder(config_path: Path | str | None = None) -> Path:
    """The given folder of configs; None: the folder that comes with the package."""
    if config_path is not None:
        if not Path(config_path).is_dir():
            raise InputError(
                f"config_path: {config_path}: no such folder, expected the one with sdxl-base.yaml", "config_path"
            )
        return Path(config_path)
    return config_files.config_folder()


def load_shapes(kind: str, config_path: Path | str | None = None, variant: str = FULL_SIZE) -> Shapes:
    """The shapes of a kind at full size, or with the changes of `<variant>.yaml`.

    >>> load_shapes("sdxl-base").parts["unet"]["cross_attention_dim"]
    2048
    """
    folder = config_folder(config_path)
    if kind not in KINDS:
        raise InputError(f"kind: got {kind!r}, expected one of {', '.join(KINDS)}")
    where, content = folder / f"{kind}.yaml", _read(folder, kind)
    if missing := {"model", "vae", "scheduler"} - set(content):
        raise InputError(f"{where}: has no section {min(missing)}; take the project's own configs")
    parts = {part: _section(folder, content, section) for part, section in SECTIONS.items() if section in content}
    scheduler = _mapping(where, "scheduler", content["scheduler"])
    if variant != FULL_SIZE:
        where = folder / f"{variant}.yaml"
        changes = _read(folder, variant)
        if kind not in changes:
            raise InputError(f"{where}: has no section {kind}; add it, or take another config")
        own = _mapping(where, kind, changes[kind])
        parts = {
            part: merged(shape, _mapping(where, SECTIONS[part], own.get(SECTIONS[part], {})))
            for part, shape in parts.items()
        }
        scheduler = scheduler | _mapping(where, "scheduler", own.get("scheduler", {}))
    for part, shape in (*parts.items(), ("scheduler", scheduler)):
        check_bounds(part, shape, str(where))
    return Shapes(kind, parts, scheduler)


def _section(folder: Path, content: dict[str, Any], section: str) -> dict[str, Any]:
    """The section of a config, or the model of the config that it names."""
    named = content[section]
    if isinstance(named, str):
        return _mapping(folder / f"{named}.yaml", "model", _read(folder, named).get("model"))
    return _mapping(folder, section, named)


def _mapping(where: Path, section: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise InputError(f"{where}: {section} is no mapping of names to values; take the project's own configs")
    return dict(value)


def _read(folder: Path, name: str) -> dict[str, Any]:
    path = folder / f"{name}.yaml"
    if not re.fullmatch(r"[\w.-]{1,80}", name) or not path.is_file():  # names come from files
        raise InputError(f"config_path: {path}: no such file, expected the project's own configs", "config_path")
    return _load(path, path.stat().st_mtime_ns)


@cache
def _load(path: Path, _changed: int) -> dict[str, Any]:
    try:
        return resolved(read_yaml(path), str(path))  # type: ignore[no-any-return]
    except ConfigError as error:
        raise InputError(f"config_path: {error}; take the project's own configs", "config_path") from error
