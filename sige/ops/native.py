"""Finds and loads the native libraries, and says for each device which implementation runs.

`SIGE_BACKEND=native` (default) takes the native library, and the reference on a device that has none;
`SIGE_BACKEND=reference` takes the reference on every device. `SIGE_LIBRARIES` names another folder to load the
libraries from (a sanitized build, say). A missing library or GPU is no error here.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

__all__ = ["Backend", "backends", "load"]

LIBRARIES = Path(os.environ.get("SIGE_LIBRARIES") or Path(__file__).resolve().parent.parent / "lib")


@dataclass(frozen=True)
class Backend:
    """The implementation that runs the ops on one device: the native library, or the reference with the reason."""

    device: str  # the dispatch key: CPU or CUDA
    native: bool
    reason: str  # why the reference runs and what to do; empty for native


_loaded: dict[str, Backend] = {}


def backends() -> tuple[Backend, ...]:
    """The backends in use, one per device."""
    return tuple(_loaded.values())


def load() -> tuple[Backend, ...]:
    """Loads the native libraries that exist, and returns the backends. The op schemas must be defined before."""
    for device in ("CPU", "CUDA"):
        if device not in _loaded:
            _loaded[device] = _load_device(device)
    return backends()


def _wants_native() -> bool:
    wanted = os.environ.get("SIGE_BACKEND", "") or "native"
    if wanted not in ("native", "reference"):
        message = f"SIGE_BACKEND is {wanted!r}, expected native or reference: taking native"
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    return wanted != "reference"


def _load_device(device: str) -> Backend:
    if not _wants_native():
        return Backend(device, False, "SIGE_BACKEND=reference asks for it")
    if device == "CUDA" and torch.version.cuda is None:
        return Backend(device, False, "this torch has no CUDA: install a CUDA build of torch to use a GPU")
    library = LIBRARIES / f"libsige_{device.lower()}.so"
    if not library.is_file():
        return Backend(device, False, f"{library} does not exist: reinstall sige {_hint(device)}")
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        return Backend(
            device,
            False,
            f"{library.name} does not load with torch {torch.__version__} ({error}): reinstall sige",
        )
    return Backend(device, True, "")


def _hint(device: str) -> str:
    return "with a C++ compiler (pip install -v .)" if device == "CPU" else "with SIGE_CUDA=1 where there is an nvcc"
