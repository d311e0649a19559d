"""Where packed attention runs our op, and where SDPA."""

from __future__ import annotations

import pytest
import torch

from sige.ops.native import Backend
from sige.packed.attention import suits_op, wants_op
from sige.packed.wide_attention import is_wide


@pytest.mark.parametrize(
    ("device", "dtype", "head_size", "expected"),
    [
        ("cpu", torch.float32, 160, True),
        ("cpu", torch.float32, 512, False),
        ("cuda", torch.float16, 64, True),
        ("cuda", torch.bfloat16, 40, True),
        ("cuda", torch.bfloat16, 160, True),
        ("cuda", torch.bfloat16, 168, False),
        ("cuda", torch.float16, 20, False),
        ("cuda", torch.float32, 64, False),
    ],
)
def test_the_op_runs_where_its_kernel_is_fast(
    device: str, dtype: torch.dtype, head_size: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sige.packed.attention.backends", lambda: (Backend("CUDA", True, ""),))
    assert suits_op(device, dtype, head_size) == expected


@pytest.mark.parametrize(
    ("device", "dtype", "head_size", "expected"),
    [
        ("cuda", torch.float16, 512, True),
        ("cuda", torch.bfloat16, 264, True),
        ("cuda", torch.bfloat16, 256, False),  # flash attention takes it
        ("cuda", torch.float32, 512, False),
        ("cpu", torch.bfloat16, 512, False),
    ],
)
def test_two_products_run_where_flash_attention_does_not(
    device: str, dtype: torch.dtype, head_size: int, expected: bool
) -> None:
    assert is_wide(device, dtype, head_size) == expected


def test_the_reference_never_runs_on_cuda_for_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sige.packed.attention.backends", lambda: (Backend("CUDA", False, "no library"),))
    assert not suits_op("cuda", torch.float16, 64)


def test_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIGE_ATTENTION", raising=False)
    assert wants_op()
    monkeypatch.setenv("SIGE_ATTENTION", "platform")
    assert not wants_op()
    monkeypatch.setenv("SIGE_ATTENTION", "fast")
    with pytest.warns(RuntimeWarning, match="SIGE_ATTENTION is 'fast', expected own or platform"):
        assert wants_op()
