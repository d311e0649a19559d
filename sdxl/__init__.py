"""The application: SDXL checkpoints, pipelines, edits and the command line on top of the engine in `sige`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for readers and type checkers; at run time `__getattr__` imports what is asked for
    from sdxl.edits.edit import edit, img2img, sdedit, text2img
    from sdxl.edits.request import Request
    from sdxl.edits.result import Result
    from sdxl.edits.run import run
    from sdxl.edits.sampling import Sampling
    from sdxl.edits.steps import Step
    from sdxl.errors import Cancelled, CheckpointError, InputError, SdxlError
    from sdxl.pipelines.load import load_pipeline, make_pipeline
    from sdxl.sessions.session import Session

_HOMES = {  # loaded when first asked for: diffusers takes seconds to import
    **dict.fromkeys(("Cancelled", "CheckpointError", "InputError", "SdxlError"), "sdxl.errors"),
    **dict.fromkeys(("edit", "img2img", "sdedit", "text2img"), "sdxl.edits.edit"),
    **dict.fromkeys(("load_pipeline", "make_pipeline"), "sdxl.pipelines.load"),
    "Request": "sdxl.edits.request",
    "Result": "sdxl.edits.result",
    "Sampling": "sdxl.edits.sampling",
    "Session": "sdxl.sessions.session",
    "Step": "sdxl.edits.steps",
    "run": "sdxl.edits.run",
}

__all__ = [  # noqa: F822
    "Cancelled",
    "CheckpointError",
    "InputError",
    "Request",
    "Result",
    "Sampling",
    "SdxlError",
    "Session",
    "Step",
    "edit",
    "img2img",
    "load_pipeline",
    "make_pipeline",
    "run",
    "sdedit",
    "text2img",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sdxl' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
