"""A checkpoint before it is read: the models on the meta device, and the files with the entries that fill them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdxl.checkpoint.configs import load_shapes
from sdxl.checkpoint.header import Header, read_header
from sdxl.checkpoint.keys import PREFIXES, Entry, make_entries
from sdxl.checkpoint.kinds import family, identify
from sdxl.checkpoint.models import build_parts

__all__ = ["Opened", "Source", "open_file"]

Source = tuple[Header, list[Entry]]


@dataclass(frozen=True)
class Opened:
    """A checkpoint with only its headers and configs read."""

    kind: str
    variant: str
    models: dict[str, Any]  # without weights
    sources: list[Source]
    scheduler: dict[str, Any]


def open_file(path: Path, config_path: Path | str | None) -> Opened:
    """The checkpoint in a single file. Its header gives the kind; the configs give the weights that it must hold."""
    header = read_header(path)
    identity = identify(header)
    shapes = load_shapes(identity.kind, config_path, identity.variant)
    models = build_parts(shapes.parts, f"the config of {identity.kind}")
    entries = make_entries(models, PREFIXES[family(identity.kind)])
    return Opened(identity.kind, identity.variant, models, [(header, entries)], shapes.scheduler)
