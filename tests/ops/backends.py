"""The implementations of an op that the tests compare: native, reference, the CUDA kernels on a CPU shim, CUDA."""

from __future__ import annotations

import fcntl
import functools
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sige.ops import Backend, backends
from sige.ops.registry import OPS, checked_reference

ROOT = Path(__file__).resolve().parent.parent.parent
SHIM = Path(os.environ.get("SIGE_SHIM_LIBRARY", ROOT / "build" / "shim" / "libsige_shim.so"))

_definitions: list[torch.library.Library] = []  # a definition lives as long as its Library


@dataclass(frozen=True)
class TestedBackend:
    """One implementation of every op, and the device of its tensors."""

    __test__ = False  # not a test class

    name: str
    device: str
    find: Callable[[str], Callable[..., Any]]

    def __call__(self, op: str, *arguments: object) -> Any:
        return self.find(op)(*arguments)

    def result(self, op: str, arguments: tuple[object, ...]) -> tuple[Tensor, ...]:
        """The op's outputs; for an op that writes its first argument, a copy of it with the result."""
        if op != "scatter":
            return as_outputs(self(op, *arguments))
        dense = _same_layout(arguments[0])
        self(op, dense, *arguments[1:])
        return (dense,)


def as_outputs(result: Tensor | tuple[Tensor, ...] | None) -> tuple[Tensor, ...]:
    """The tensors that an op returned, as a tuple: none, one or several."""
    return (result,) if isinstance(result, Tensor) else result or ()


def _same_layout(tensor: object) -> Tensor:
    """A copy with the same strides, gaps included, so that a view stays a view."""
    assert isinstance(tensor, Tensor)
    copy = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
    return copy.copy_(tensor)


def _registered(op: str) -> Callable[..., Any]:
    return getattr(torch.ops.sige, op).default  # type: ignore[no-any-return]


def _shim(op: str) -> Callable[..., Any]:
    _load_shim()
    return getattr(torch.ops.sige_shim, op).default  # type: ignore[no-any-return]


def _reference(op: str) -> Callable[..., Any]:
    return checked_reference(OPS[op], Backend("CPU", False, "SIGE_BACKEND=reference in a test"))


@functools.cache
def shim_library() -> Path:
    """The library of the CUDA kernels on the CPU, built where the caller names none."""
    if "SIGE_SHIM_LIBRARY" not in os.environ:
        build = [sys.executable, str(ROOT / "tools" / "native_build.py"), "--target", "shim", "--out", str(SHIM.parent)]
        SHIM.parent.mkdir(parents=True, exist_ok=True)
        with (SHIM.parent / "lock").open("w") as lock:  # of several test processes one builds, the others wait
            fcntl.flock(lock, fcntl.LOCK_EX)
            subprocess.run(build, check=True)
    return SHIM


@functools.cache
def _load_shim() -> None:
    path = shim_library()
    library = torch.library.Library("sige_shim", "DEF")
    for op in OPS.values():
        library.define(op.schema)
    _definitions.append(library)
    torch.ops.load_library(str(path))


def _is_native(device: str) -> bool:
    return any(backend.device == device and backend.native for backend in backends())


ALL = [
    pytest.param(
        TestedBackend("native", "cpu", _registered),
        id="native",
        marks=pytest.mark.skipif(not _is_native("CPU"), reason="the native CPU library is not in use"),
    ),
    pytest.param(TestedBackend("reference", "cpu", _reference), id="reference"),
    pytest.param(TestedBackend("shim", "cpu", _shim), id="cuda-shim"),
    pytest.param(TestedBackend("cuda", "cuda", _registered), id="cuda", marks=pytest.mark.gpu),
]
every_backend = pytest.mark.parametrize("backend", ALL)
every_op = pytest.mark.parametrize("op", list(OPS))
every_dtype = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16], ids=["fp32", "fp16", "bf16"]
)
