"""The CUDA kernel row_product on the shim: every tile and number of splits, both products, and the plan."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
import torch
from torch import Tensor

from sige.ops import backends, linear, linear_stack
from tests.ops.backends import TestedBackend, every_backend, every_dtype, shim_library
from tests.ops.samples import reference, sample_inputs
from tests.tolerances import assert_close

DTYPES = {torch.float16: 1, torch.bfloat16: 2}  # sige::DType
TILES = {0: (128, 128, 32), 1: (64, 128, 64), 2: (64, 64, 64)}  # sige::ProductTileSize
every_16_bits = pytest.mark.parametrize("dtype", DTYPES, ids=["fp16", "bf16"])


@pytest.fixture(scope="module")
def shim() -> Any:
    library = ctypes.CDLL(str(shim_library()))
    library.sige_plan_product.restype = ctypes.c_double
    return library


def row_product(
    shim: Any,
    tile: int,
    splits: int,
    packed: Tensor,  # [B, N, C]
    recorded: Tensor,  # [B, M, C]
    index: Tensor | None,  # int32 [N_out, T]
    weight: Tensor,  # [C_out, T * C]
    bias: Tensor | None,  # [C_out] or [B, C_out]
    residual: Tensor | None,  # [B, N_out, C_out]
    partials: Tensor | None = None,  # [S, B, N_out, C_out]
) -> Tensor:  # [B, N_out, C_out]
    biases = None if bias is None else bias[None]
    return row_products(shim, tile, splits, packed, recorded, index, weight[None], biases, residual, partials)[0]


def row_products(
    shim: Any,
    tile: int,
    splits: int,
    packed: Tensor,  # [B, N, C]
    recorded: Tensor,  # [B, M, C]
    index: Tensor | None,  # int32 [N_out, T]
    weight: Tensor,  # [P, C_out, T * C]
    bias: Tensor | None,  # [P, C_out] or [1, B, C_out]
    residual: Tensor | None,  # [B, N_out, C_out]
    partials: Tensor | None = None,  # [S, P, B, N_out, C_out], or as much memory in another order
) -> Tensor:  # [P, B, N_out, C_out]
    batch, rows, channels = packed.shape
    rows_out, taps = (rows, 1) if index is None else index.shape
    out = torch.full((len(weight), batch, rows_out, weight.shape[1]), torch.nan, dtype=packed.dtype)
    partials = torch.full((splits, *out.shape), torch.nan) if partials is None else partials
    pointers = [x.data_ptr() if x is not None else None for x in (packed, recorded, index, weight, bias, residual)]
    stride = bias.stride(1) if bias is not None and bias.dim() == 3 else 0
    sizes = (rows, recorded.shape[1], channels, rows_out, taps, weight.shape[1], batch, stride, len(weight))
    shim.sige_row_product(
        (ctypes.c_void_p * 6)(*pointers),
        ctypes.c_void_p(out.data_ptr()),
        ctypes.c_void_p(partials.data_ptr()),
        (ctypes.c_int64 * 9)(*sizes),
        *(ctypes.c_int32(value) for value in (DTYPES[packed.dtype], tile, splits)),
    )
    return out


@every_16_bits
@pytest.mark.parametrize("tile", TILES, ids=["128x128", "64x128", "64x64"])
@pytest.mark.parametrize("order, splits", [("forward", 3), ("reverse", 1), ("3", 2)])
def test_every_tile_equals_the_definition(
    order: str, tile: int, splits: int, dtype: torch.dtype, shim: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows, columns and K end within a tile, entries are -1, and each sample has its bias."""
    monkeypatch.setenv("SIGE_SHIM_ORDER", order)
    torch.manual_seed(tile)
    for batch, rows_out, taps, channels, columns in ((2, 70, 9, 40, 136), (1, 5, 4, 8, 8), (1, 130, 1, 72, 64)):
        packed, recorded = (torch.randn(batch, rows, channels).to(dtype) for rows in (11, 20))
        index = torch.randint(-1, 31, (rows_out, taps), dtype=torch.int32)
        weight = (torch.randn(columns, taps * channels) * (taps * channels) ** -0.5).to(dtype)
        bias = torch.randn(batch, columns + 8).to(dtype)[:, 8:]  # rows lie apart
        residual = torch.randn(batch, rows_out, columns).to(dtype)
        out = row_product(shim, tile, splits, packed, recorded, index, weight, bias, residual)
        arguments = (packed, recorded, index, weight, bias, None, None, 0, residual, 0)
        assert_close(out, reference("sparse_conv2d", arguments)[0], dtype)


@every_16_bits
@pytest.mark.parametrize("tile", TILES, ids=["128x128", "64x128", "64x64"])
def test_without_a_map_equals_a_linear_layer(tile: int, dtype: torch.dtype, shim: Any) -> None:
    rows, weight = torch.randn(2, 67, 200).to(dtype), (torch.randn(24, 200) * 200**-0.5).to(dtype)
    out = row_product(shim, tile, 1, rows, rows[:, :0], None, weight, None, None)
    assert_close(out, reference("linear", (rows, weight, None, None))[0], dtype)


@every_16_bits
@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("tile", TILES, ids=["128x128", "64x128", "64x64"])
def test_layers_side_by_side_have_the_bits_of_each_alone(tile: int, splits: int, dtype: torch.dtype, shim: Any) -> None:
    """The last tile of a layer ends within it, and the next one begins with the next layer."""
    rows = torch.randn(2, 37, 200).to(dtype)
    weights, biases = (torch.randn(3, 136, 200) * 200**-0.5).to(dtype), torch.randn(3, 136).to(dtype)
    out = row_products(shim, tile, splits, rows, rows[:, :0], None, weights, biases, None)
    for each, weight, bias in zip(out, weights, biases, strict=True):
        assert torch.equal(each, row_product(shim, tile, splits, rows, rows[:, :0], None, weight, bias, None))


@every_dtype
@pytest.mark.skipif(not any(one.device == "CPU" and one.native for one in backends()), reason="no native CPU library")
def test_on_the_cpu_a_stack_has_the_bits_of_each_layer(dtype: torch.dtype) -> None:
    for rows, weights, biases in sample_inputs("linear_stack", "cpu", dtype):
        assert isinstance(rows, Tensor) and isinstance(weights, list) and isinstance(biases, list)
        each = [linear(rows, weight, biases[k] if biases else None) for k, weight in enumerate(weights)]
        assert torch.equal(linear_stack(rows, weights, biases), torch.stack(each))


@every_16_bits
def test_rounds_once(dtype: torch.dtype, shim: Any) -> None:
    """Bias and residual are added in fp32: their sum alone would be rounded to 1, and the product cancels the 1."""
    rows, weight = torch.ones(1, 3, 8).to(dtype), torch.zeros(8, 8).to(dtype)
    weight[:, 0] = -1.0
    bias, residual = torch.ones(8).to(dtype), torch.full((1, 3, 8), 2.0**-14).to(dtype)
    out = row_product(shim, 2, 1, rows, rows[:, :0], None, weight, bias, residual)
    assert torch.equal(out, residual)


@every_16_bits
@pytest.mark.parametrize("product", ["own", "platform"])
@pytest.mark.parametrize("op", ["linear", "linear_stack", "sparse_conv2d"])
@every_backend
def test_both_products_equal_the_definition(
    backend: TestedBackend, op: str, product: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGE_PRODUCT", product)  # read at each call
    for arguments in sample_inputs(op, backend.device, dtype):
        assert_close(backend.result(op, arguments)[0], reference(op, arguments)[0], dtype)


@pytest.mark.parametrize(("multiprocessors", "layers"), [(1, 1), (84, 1), (108, 1), (132, 1), (132, 3)])
def test_plan_covers_the_product(multiprocessors: int, layers: int, shim: Any) -> None:
    """No split is empty, all together cover K, and a small product on a large device is split."""
    for rows in (1, 64, 288, 1000, 10_000):
        for columns in (8, 320, 1280, 10_240):
            for depth in (8, 320, 2880, 23_040):
                plan = (ctypes.c_int32 * 3)()
                sizes = (ctypes.c_int64(size) for size in (rows, columns, depth, multiprocessors, layers))
                assert shim.sige_plan_product(*sizes, plan) > 0
                tile, splits, steps = plan
                assert 1 <= splits <= 16
                assert (splits - 1) * steps * TILES[tile][2] < depth <= splits * steps * TILES[tile][2]
                assert splits == 1 or steps >= 4
                if (rows, columns, depth, multiprocessors) == (288, 1280, 23_040, 132):
                    assert splits > 1
