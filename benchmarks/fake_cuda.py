"""Fake CUDA tensors on any machine: shapes, dtypes and devices without memory or a GPU, and models made of them.

Inside `with fake_cuda():` an op on `cuda:0` computes the shape of its result and nothing else. A CPU build of torch has
no device guard for CUDA; one that does nothing (`fake_cuda_guard.cpp`) is compiled on first use. A torch with CUDA has
its own guard, and then nothing is compiled or loaded.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree

from sige.files import atomic_write
from sige.ops import Backend, backends
from sige.packed import attention
from sige.packed.wide_attention import LARGEST_FLASH_HEAD
from sige.profiling import Subject, build

__all__ = ["DEVICE", "GuardError", "build_fake", "fake_cuda"]

DEVICE = "cuda:0"
SOURCE = Path(__file__).with_name("fake_cuda_guard.cpp")
FOLDER = Path(__file__).resolve().parent.parent / "build" / "fake_cuda"


class GuardError(Exception):
    """The device guard cannot be made here; the message is one line that says what to do."""


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Inside, tensors are fake, and those on `cuda:0` take the way that real ones take on a GPU."""
    register_guard()
    with FakeTensorMode(allow_non_fake_inputs=True), OneKernelAttention(), native_ops(), torch.no_grad():
        yield


@contextmanager
def native_ops() -> Iterator[None]:
    """Inside, attention takes the way that it takes on a GPU with our CUDA library, which a CPU build lacks."""
    others = tuple(backend for backend in backends() if backend.device != "CUDA")
    with patch.object(attention, "backends", lambda: (*others, Backend("CUDA", True, ""))):
        yield


def build_fake(name: str, size: tuple[int, int], dtype: torch.dtype) -> Subject:
    """The named model with its inputs as fake tensors on `cuda:0`. Call it inside `fake_cuda()`."""
    subject = build(name, size, dtype=dtype)  # on the meta device
    for module in subject.target.modules():
        for key, weight in list(module.named_parameters(recurse=False)):
            setattr(module, key, nn.Parameter(_placed(weight), requires_grad=False))
        for key, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, key, _placed(buffer))
    return replace(subject, sample=_placed(subject.sample), arguments=_placed(subject.arguments))


def _placed(values: Any) -> Any:
    """The same tree of values, with each tensor on the fake device."""
    return _pytree.tree_map_only(Tensor, lambda one: torch.empty(one.shape, dtype=one.dtype, device=DEVICE), values)


class OneKernelAttention(TorchFunctionMode):
    """SDPA as CUDA runs it, by one fused kernel. torch chooses it by asking the GPU, and takes it apart without one."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return _fused(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _fused(
    query: Tensor,  # [B, Hd, N, D]
    key: Tensor,  # [B, Hd, L, D]
    value: Tensor,  # [B, Hd, L, D]
    attn_mask: Tensor | None = None,  # broadcasts to [B, Hd, N, L]
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **_: Any,
) -> Tensor:  # [B, Hd, N, D]
    if attn_mask is None and query.shape[-1] <= LARGEST_FLASH_HEAD and query.dtype != torch.float32:
        flash = torch.ops.aten._scaled_dot_product_flash_attention.default
        return flash(query, key, value, dropout_p, is_causal, scale=scale)[0]  # type: ignore[no-any-return]
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention.default
    return efficient(query, key, value, attn_mask, False, dropout_p, is_causal, scale=scale)[0]  # type: ignore[no-any-return]


# ---- the guard ------------------------------------------------------------------------------------------------------


@functools.cache
def register_guard() -> None:
    """Loads the guard once, and compiles it before where that was not done; nothing to do in a torch with CUDA."""
    if torch.version.cuda is None and torch.version.hip is None:
        ctypes.CDLL(str(_compiled()))


def _compiled() -> Path:
    """The guard's library. Its name holds what it is made of: another torch or another source gets its own."""
    made_of = f"{torch.__version__} {torch.version.git_version} {SOURCE.read_text()}"
    library = FOLDER / f"guard-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.so"
    if not library.exists():
        with atomic_write(library, parents=True) as temporary:
            _compile(temporary)
    return library


def _compile(library: Path) -> None:
    wanted = os.environ.get("CXX", "g++")
    compiler = shutil.which(wanted)
    if compiler is None:
        raise GuardError(f"fake CUDA needs a C++ compiler, and there is no {wanted}: install one, or name yours in CXX")
    folder = Path(torch.__file__).parent
    flags = ["-O1", "-shared", "-fPIC", "-std=c++20", f"-I{folder / 'include'}", f"-L{folder / 'lib'}"]
    command = [compiler, *flags, str(SOURCE), "-lc10", "-o", str(library)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        first = next((line for line in result.stderr.splitlines() if "error" in line), "it says nothing")
        raise GuardError(f"{SOURCE.name} does not compile ({first.strip()}): use g++ 12 or newer, or name it in CXX")
