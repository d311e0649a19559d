"""The functions of csrc/common/tensor_core.cuh, as tests/shim emulates them, multiply as a plain product does."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
import torch

from tests.ops.backends import shim_library

DTYPES = {torch.float16: 1, torch.bfloat16: 2}  # sige::DType


@pytest.fixture(scope="module")
def shim() -> Any:
    return ctypes.CDLL(str(shim_library()))


@pytest.mark.parametrize("order", ["forward", "reverse", "7"])
@pytest.mark.parametrize("transposed", [False, True], ids=["by_rows", "by_columns"])
@pytest.mark.parametrize("dtype", DTYPES, ids=["fp16", "bf16"])
def test_shim_multiplies_as_torch(
    dtype: torch.dtype, transposed: bool, order: str, shim: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGE_SHIM_ORDER", order)  # other orders than "forward" copy at once, not as late as possible
    torch.manual_seed(0)
    for rows, depth in ((16, 16), (11, 96), (1, 32)):
        left = torch.randn(rows, depth).to(dtype)
        right = torch.randn(*((depth, 16) if transposed else (16, depth))).to(dtype)
        out = torch.full((16, 16), torch.nan)
        sizes = (ctypes.c_int64(rows), ctypes.c_int64(depth), ctypes.c_int32(transposed))
        pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (left, right, out))
        shim.sige_check_tensor_core(*pointers, *sizes, ctypes.c_int32(DTYPES[dtype]))
        columns = right.double() if transposed else right.double().T
        expected = torch.zeros(16, 16, dtype=torch.float64)
        expected[:rows] = left.double() @ columns
        torch.testing.assert_close(out.double(), expected, rtol=0, atol=depth * 2.0**-22)
