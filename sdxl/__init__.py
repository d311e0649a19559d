"""The application: SDXL checkpoints, pipelines, edits and the command line on top of the engine in `sige`."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {  # loaded when first asked for: diffusers takes seconds to import
    "CheckpointError": "sdxl.errors",
    "InputError": "sdxl.errors",
    "SdxlError": "sdxl.errors",
    "Sampling": "sdxl.edits.edit",
    "edit": "sdxl.edits.edit",
    "img2img": "sdxl.edits.edit",
    "load_pipeline": "sdxl.pipelines.load",
    "make_pipeline": "sdxl.pipelines.load",
    "sdedit": "sdxl.edits.edit",
    "text2img": "sdxl.edits.edit",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sdxl' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
