"""block_attention on tensor cores: head sizes, splits over the keys, hidden keys, large scores, against fp64.

The shim counts eight blocks as a full GPU (tools/native_build.py), so that shapes of a test split as large ones do.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from tests.ops.backends import ALL, TestedBackend
from tests.ops.samples import Arguments, reference
from tests.tolerances import assert_close

on_cuda = pytest.mark.parametrize("backend", ALL[2:])  # the shim, and CUDA where there is a GPU
in_16_bits = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])


@dataclass(frozen=True)
class Shape:
    """The sizes of one call."""

    batch: int
    queries: int
    fresh: int
    recorded: int
    keys: int  # entries of the index
    heads: int
    size: int


ONE_SPLIT = Shape(1, 33, 5, 128, 130, 2, 64)
SPLITS = {
    "two of five tiles": Shape(1, 30, 10, 700, 603, 4, 64),
    "two, the last shorter": Shape(2, 13, 0, 900, 687, 2, 40),
    "four": Shape(1, 20, 10, 900, 1029, 1, 80),
    "128 queries to a block": Shape(2, 121, 10, 700, 513, 2, 64),
    "128 queries, no split": Shape(4, 70, 70, 20, 77, 2, 56),
}


def attention_arguments(shape: Shape, dtype: torch.dtype, spread: float = 1.0) -> Arguments:
    """Random rows, scores `spread` squared times as far apart as usual, some entries hidden, some twice."""
    torch.manual_seed(shape.keys)
    channels = shape.heads * shape.size

    def rows(count: int, spread: float = 1.0) -> Tensor:  # [B, count, Hd * D]
        return (torch.randn(shape.batch, count, channels) * spread).to(dtype)

    query, key, recorded_key = (rows(count, spread) for count in (shape.queries, shape.fresh, shape.recorded))
    index = torch.randint(-1, shape.fresh + shape.recorded, (shape.keys,), dtype=torch.int32)
    index[::7] = -1
    return (
        *(query, key, rows(shape.fresh), recorded_key, rows(shape.recorded)),
        *(index, shape.heads, None, shape.size**-0.5),
    )


def _replaced(arguments: Arguments, place: int, value: object) -> Arguments:
    return (*arguments[:place], value, *arguments[place + 1 :])


def _check(backend: TestedBackend, arguments: Arguments, dtype: torch.dtype) -> Tensor:
    moved = tuple(value.to(backend.device) if isinstance(value, Tensor) else value for value in arguments)
    out = backend.result("block_attention", moved)[0].cpu()
    assert_close(out, reference("block_attention", arguments)[0], dtype)
    return out


@on_cuda
@in_16_bits
@pytest.mark.parametrize("size", [8, 40, 48, 56, 64, 72, 80, 104, 128, 136, 160])
def test_head_sizes(size: int, dtype: torch.dtype, backend: TestedBackend) -> None:
    _check(backend, attention_arguments(Shape(2, 19, 5, 60, 70, 2, size), dtype), dtype)


@on_cuda
@in_16_bits
@pytest.mark.parametrize("name", SPLITS)
def test_splits(name: str, dtype: torch.dtype, backend: TestedBackend) -> None:
    _check(backend, attention_arguments(SPLITS[name], dtype), dtype)


@on_cuda
@pytest.mark.parametrize("name", SPLITS)
def test_splits_under_a_block_mask(name: str, backend: TestedBackend) -> None:
    shape = SPLITS[name]
    mask = torch.rand(-(-shape.queries // 64), -(-shape.keys // 64)) > 0.6
    _check(backend, _replaced(attention_arguments(shape, torch.float16), 7, mask), torch.float16)


@on_cuda
@pytest.mark.parametrize("shape", [ONE_SPLIT, *SPLITS.values()], ids=["one split", *SPLITS])
def test_a_query_that_sees_no_key_gives_zeros(shape: Shape, backend: TestedBackend) -> None:
    arguments = attention_arguments(shape, torch.bfloat16)
    mask = torch.ones(-(-shape.queries // 64), -(-shape.keys // 64), dtype=torch.bool)
    mask[-1] = False  # the last block of queries
    out = _check(backend, _replaced(arguments, 7, mask), torch.bfloat16)
    assert (out[:, (shape.queries - 1) // 64 * 64 :] == 0).all()
    hidden = torch.full((shape.keys,), -1, dtype=torch.int32)
    assert (_check(backend, _replaced(arguments, 5, hidden), torch.bfloat16) == 0).all()


@on_cuda
@in_16_bits
@pytest.mark.parametrize("shape", [ONE_SPLIT, SPLITS["four"]], ids=["one split", "four"])
def test_large_scores(shape: Shape, dtype: torch.dtype, backend: TestedBackend) -> None:
    """Scores of several thousands: their powers would overflow without the peak."""
    _check(backend, attention_arguments(shape, dtype, spread=30.0), dtype)


@on_cuda
def test_what_a_hidden_entry_could_read_is_not_read(backend: TestedBackend) -> None:
    """NaN in rows that no entry names, and in the queries of a block that sees other keys, stays where it is."""
    arguments = attention_arguments(SPLITS["two of five tiles"], torch.float16)
    index = arguments[5]
    assert isinstance(index, Tensor)
    expected = _check(backend, arguments, torch.float16)
    for place in (3, 4):  # recorded keys and values
        rows = arguments[place]
        assert isinstance(rows, Tensor)
        poisoned = rows.clone()
        unread = torch.ones(rows.shape[1], dtype=torch.bool)
        unread[index[index >= 10].long() - 10] = False
        assert unread.any()
        poisoned[:, unread] = float("nan")
        arguments = _replaced(arguments, place, poisoned)
    moved = tuple(value.to(backend.device) if isinstance(value, Tensor) else value for value in arguments)
    assert torch.equal(backend.result("block_attention", moved)[0].cpu(), expected)


@on_cuda
def test_same_input_same_bits_with_splits(backend: TestedBackend) -> None:
    arguments = attention_arguments(SPLITS["four"], torch.float16)
    moved = tuple(value.to(backend.device) if isinstance(value, Tensor) else value for value in arguments)
    first, second = (backend.result("block_attention", moved)[0] for _ in range(2))
    assert torch.equal(first, second)


@on_cuda
def test_unaligned_rows_take_the_other_kernel(backend: TestedBackend) -> None:
    """Rows that do not start on 16 bytes cannot be copied 16 bytes at a time."""
    arguments = attention_arguments(ONE_SPLIT, torch.float16)
    query = arguments[0]
    assert isinstance(query, Tensor)
    shifted = torch.empty(query.numel() + 1, dtype=query.dtype)[1:].view(query.shape).copy_(query)
    assert shifted.data_ptr() % 16
    _check(backend, _replaced(arguments, 0, shifted), torch.float16)
