"""The plans that predictions of launches use are those of the CUDA library: compared on the shim."""

from __future__ import annotations

import ctypes
import itertools
from typing import Any

import pytest
import torch

from benchmarks.launch_plans import (
    AttentionPlan,
    attention_plan,
    product_plan,
    takes_row_product,
    takes_tensor_attention,
)
from tests.ops.backends import shim_library

DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}  # sige::DType
SHIM_GRID = 8  # SIGE_FULL_GRID of the shim
GENERATION = 9  # of the H200


@pytest.fixture(scope="module")
def shim() -> Any:
    library = ctypes.CDLL(str(shim_library()))
    library.sige_plan_product.restype = ctypes.c_double
    library.sige_takes_row_product.restype = ctypes.c_bool
    library.sige_attention_splits.restype = ctypes.c_int64
    return library


def _numbers(*values: int) -> Any:
    return (ctypes.c_int64 * len(values))(*values)


@pytest.mark.parametrize(("multiprocessors", "layers"), [(84, 1), (132, 1), (132, 3)])
def test_products_are_cut_alike(multiprocessors: int, layers: int, shim: Any) -> None:
    splits = set()
    for shape in itertools.product(
        (1, 64, 288, 968, 4000, 26_000, 140_000), (8, 320, 640, 1280, 10_240), (8, 640, 2880, 23_040)
    ):
        found = (ctypes.c_int32 * 3)()
        clocks = shim.sige_plan_product(*map(ctypes.c_int64, (*shape, multiprocessors, layers)), found)
        plan = product_plan(*shape, multiprocessors, layers)
        assert (plan.tile, plan.splits, plan.steps) == tuple(found), shape
        assert plan.clocks == pytest.approx(clocks, rel=1e-12)
        splits.add(plan.splits)
    assert len(splits) > 4


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_products_are_taken(dtype: torch.dtype, shim: Any) -> None:
    answers = set()
    sizes = ((288, 968, 5000, 26_000), (4, 320, 640, 1280), (1, 9, 17), (4, 640, 1280, 5120))
    for rows, columns, taps, channels in itertools.product(*sizes):
        work = (0, 0, 1), (1, 4 * rows * columns, 1), (5, 4 * rows * (taps * channels + columns), 1)
        for launches, nbytes, layers in (*work, (2, 4 * rows * channels, 3)):
            shape = rows, columns, taps, channels
            numbers = _numbers(*shape, launches, nbytes, layers)
            expected = shim.sige_takes_row_product(numbers, DTYPES[dtype], ctypes.c_int64(GENERATION))
            assert takes_row_product(*shape, dtype, launches, nbytes, layers) == expected, (shape, launches)
            answers.add(expected)
    assert answers == ({False} if dtype == torch.float32 else {False, True})


@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_is_split_alike(dtype: torch.dtype, shim: Any) -> None:
    splits = set()
    sizes = ((1, 2, 3, 20), (1, 64, 65, 130, 484), (0, 1, 77, 513, 1024, 4096), (20, 40, 64, 80, 160, 168, 512))
    for shape in itertools.product(*sizes):
        found = shim.sige_attention_splits(_numbers(*shape), DTYPES[dtype])
        assert (found > 0) == takes_tensor_attention(shape[3], dtype), shape
        if found:
            assert attention_plan(*shape, SHIM_GRID).splits == found, shape
            splits.add(found)
    assert len(splits) > (-1 if dtype == torch.float32 else 4)


def test_a_plan_on_a_full_device() -> None:
    """SDXL's deepest level: 2 * 20 heads of 64, 144 queries of a sample over 1024 keys."""
    assert attention_plan(40, 144, 1024, 64) == AttentionPlan(queries=64, splits=2, keys=512, waves=1)
