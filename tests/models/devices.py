"""The devices that property tests run on: the CPU, and the GPU where there is one.

A test marked `every_device`, or each test of a file with `pytestmark = every_device`, runs on all of them. Models and
inputs of `tiny.py`, `state.py` and `call.py` are made on the device of the test that asks; other tests get the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch

__all__ = ["current", "every_device", "on", "on_a_gpu"]

GPU = pytest.param("cuda", marks=pytest.mark.gpu)
every_device = pytest.mark.parametrize("device", ["cpu", GPU], indirect=True)
on_a_gpu = pytest.mark.parametrize("device", [GPU], indirect=True)

_chosen = ["cpu"]


def current() -> str:
    """The device of the test that runs."""
    return _chosen[-1]


@contextmanager
def on(device: str) -> Iterator[None]:
    """Inside, models are made on this device."""
    _chosen.append(device)
    try:
        with fp32_is_fp32() if device == "cuda" else nullcontext():
            yield
    finally:
        _chosen.pop()


@contextmanager
def fp32_is_fp32() -> Iterator[None]:
    """Inside, no product and no convolution rounds its inputs to TF32, so the CPU's tolerances hold on a GPU."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
