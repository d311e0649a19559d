"""Finds the configurations: in the installed package, or in a source tree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sige.errors import ConfigError
from sige.yaml_files import read_yaml, resolved

__all__ = ["config_folder", "data_folder", "load_config"]

_PACKAGE = Path(__file__).resolve().parent


def data_folder(installed: Path, in_source_tree: str) -> Path:
    """The folder `installed` where the package is installed with its data; else `in_source_tree` in the source tree."""
    return installed if installed.is_dir() else _PACKAGE.parent / in_source_tree


def config_folder() -> Path:
    """The folder with `sdxl-base.yaml`.

    >>> (config_folder() / "sdxl-base.yaml").is_file()
    True
    """
    return data_folder(_PACKAGE / "configs", "configs")


def load_config(name: str) -> dict[str, Any]:
    """The content of `<name>.yaml` in the folder of configurations."""
    path = config_folder() / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(f"config: {path} does not exist, expected the project's own configurations")
    return resolved(read_yaml(path), str(path))  # type: ignore[no-any-return]
