"""The shapes of a checkpoint's parts, from `configs/*.yaml`.

A section that is a name stands for the `model` section of the config of that name. A config of smaller copies, such as
`tiny.yaml`, has one section per kind with the settings that differ from `<kind>.yaml`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sdxl.errors import InputError
from sige import config_files

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
    from omegaconf import OmegaConf

    folder = config_folder(config_path)
    if kind not in KINDS:
        raise InputError(f"kind: got {kind!r}, expected one of {', '.join(KINDS)}")
    content = _read(folder, kind)
    if missing := {"model", "vae", "scheduler"} - set(content):
        raise InputError(f"{folder / kind}.yaml: has no section {min(missing)}; take the project's own configs")
    parts = {part: _resolved(folder, content[section]) for part, section in SECTIONS.items() if section in content}
    scheduler = dict(content["scheduler"])
    if variant != FULL_SIZE:
        changes = _read(folder, variant)
        if kind not in changes:
            raise InputError(f"{folder / variant}.yaml: has no section {kind}; add it, or take another config")
        for part in parts:
            merged = OmegaConf.merge(parts[part], changes[kind].get(SECTIONS[part], {}))
            parts[part] = OmegaConf.to_container(merged)
        scheduler |= changes[kind].get("scheduler", {})
    return Shapes(kind, parts, scheduler)


def _resolved(folder: Path, section: dict[str, Any] | str) -> dict[str, Any]:
    if isinstance(section, str):
        return _resolved(folder, _read(folder, section)["model"])
    return dict(section)


def _read(folder: Path, name: str) -> dict[str, Any]:
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise InputError(f"config_path: {path}: no such file, expected the project's own configs", "config_path")
    return _load(path, path.stat().st_mtime_ns)


@cache
def _load(path: Path, _changed: int) -> dict[str, Any]:
    from omegaconf import OmegaConf

    content = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    if not isinstance(content, dict):
        raise InputError(f"{path}: is a {type(content).__name__}, expected a mapping")
    return content
