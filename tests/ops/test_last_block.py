"""Kernels whose last block puts the parts of all together, on the shim: any block may be the last, the bits stay."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from sige.ops.registry import OPS
from tests.ops.backends import ALL, shim_library
from tests.ops.samples import Arguments, reference
from tests.ops.test_row_product import row_product
from tests.ops.test_tensor_attention import SPLITS, attention_arguments
from tests.tolerances import assert_close

ORDERS = ("forward", "reverse", "1", "2", "3")  # of threads and blocks: SIGE_SHIM_ORDER
SHIM = next(parameter.values[0] for parameter in ALL if parameter.id == "cuda-shim")
TILES = (0, 1, 2)  # sige::ProductTileSize


@pytest.fixture(scope="module")
def shim() -> Any:
    library = ctypes.CDLL(str(shim_library()))
    for name in ("sige_counters_left", "sige_counter_slice", "sige_counter_slices"):
        getattr(library, name).restype = ctypes.c_int64
    return library


@pytest.fixture(autouse=True)
def every_counter_is_zero_again(shim: Any) -> Iterator[None]:
    assert shim.sige_counters_left() == 0
    yield
    assert shim.sige_counters_left() == 0


def in_every_order(monkeypatch: pytest.MonkeyPatch, call: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """The results of a call, which have the same bits in each order of the blocks."""
    results = []
    for order in ORDERS:
        monkeypatch.setenv("SIGE_SHIM_ORDER", order)
        results.append(call())
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    return results[0]


# ---- row_product ----------------------------------------------------------------------------------------------------


def product(shim: Any, tile: int, splits: int, partials: Tensor | None = None) -> Tensor:  # [2, 70, 136]
    """A product of 6 or more tiles in each split, with bias and residual."""
    torch.manual_seed(0)
    packed, weight = torch.randn(2, 70, 400).half(), torch.randn(136, 400).half() / 20
    bias, residual = torch.randn(136).half(), torch.randn(2, 70, 136).half()
    return row_product(shim, tile, splits, packed, packed[:, :0], None, weight, bias, residual, partials)


@pytest.mark.parametrize("tile", TILES)
def test_a_product_adds_its_splits_in_their_order(tile: int, shim: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = 4
    partials = torch.full((splits, 2, 70, 136), torch.nan)
    (out,) = in_every_order(monkeypatch, lambda: (product(shim, tile, splits, partials),))
    torch.manual_seed(0)
    torch.randn(2, 70, 400), torch.randn(136, 400)
    sums = (
        sum(partials.unbind(), torch.zeros(()))
        + torch.randn(136).half().float()
        + torch.randn(2, 70, 136).half().float()
    )
    assert torch.equal(out, sums.half())


def test_products_of_other_splits_follow_each_other(shim: Any) -> None:
    alone = product(shim, 2, 1).float()
    for splits in (2, 7, 3, 1, 5):
        assert (product(shim, 2, splits).float() - alone).abs().max() < 0.02


def test_a_product_is_one_launch(shim: Any) -> None:
    before = shim.sige_shim_launches()
    product(shim, 2, 4)
    assert shim.sige_shim_launches() == before + 1


# ---- attention ------------------------------------------------------------------------------------------------------


def attention(name: str) -> Tensor:  # [B, N, Hd * D]
    """block_attention whose keys are split; the samples, heads and blocks of queries have their counters."""
    return SHIM("block_attention", *attention_arguments(SPLITS[name], torch.float16))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", SPLITS)
def test_attention_adds_its_splits_in_one_order(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    in_every_order(monkeypatch, lambda: (attention(name),))


def test_attentions_of_other_splits_follow_each_other(shim: Any) -> None:
    """Each is one launch, and equals the definition also after the others."""
    for name in (*SPLITS, *reversed(SPLITS)):
        before = shim.sige_shim_launches()
        out = attention(name)
        assert shim.sige_shim_launches() == before + 2  # the first one checks the index
        expected = reference("block_attention", attention_arguments(SPLITS[name], torch.float16))[0]
        assert_close(out, expected, torch.float16)


# ---- sums of groups -------------------------------------------------------------------------------------------------

ROWS = {"no rows": 0, "one block": 40, "two": 100, "three chunks": 2 * 64 * 64 + 70}


def norm_arguments(rows: int, terms: int) -> Arguments:
    """Arguments of norm_affine: 2 samples of 3 groups in more tiles than one, each second row is replaced."""
    torch.manual_seed(rows)
    packed = torch.randn(2, rows, 3 * 88).half()
    recorded = [torch.randn(2, rows + 5, 3 * 88).half() for _ in range(terms)]
    index = torch.arange(rows, dtype=torch.int32)
    index[::2] = -1
    stats = [OPS["group_stats"].reference(term.double(), 3) for term in recorded]
    weights = torch.linspace(0.5, 1.0, terms).double()
    return stats, recorded, weights / weights.sum(), index, packed, None, None, 1e-5


@pytest.mark.parametrize("terms", [1, 3])
@pytest.mark.parametrize("name", ROWS)
def test_a_norm_ends_its_sums_in_one_order(name: str, terms: int, shim: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = norm_arguments(ROWS[name], terms)
    before = shim.sige_shim_launches()
    results = in_every_order(monkeypatch, lambda: tuple(SHIM("norm_affine", *arguments)))
    assert shim.sige_shim_launches() - before == len(ORDERS) * (2 if ROWS[name] else 1)  # with the check of the index
    for out, expected in zip(results, reference("norm_affine", arguments), strict=True):
        assert_close(out, expected, torch.float32)


@pytest.mark.parametrize("name", ROWS)
def test_sums_end_in_one_order(name: str, shim: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = norm_arguments(ROWS[name], 1)[4]
    before = shim.sige_shim_launches()
    (out,) = in_every_order(monkeypatch, lambda: (SHIM("group_stats", rows, 3),))
    assert shim.sige_shim_launches() - before == len(ORDERS)
    torch.testing.assert_close(out, OPS["group_stats"].reference(rows.double(), 3), rtol=1e-5, atol=1e-2)


def test_more_samples_than_counters_take_two_launches(shim: Any) -> None:
    rows = torch.randn(3000, 65, 2)
    before = shim.sige_shim_launches()
    out = SHIM("group_stats", rows, 2)
    assert shim.sige_shim_launches() == before + 2
    torch.testing.assert_close(out, OPS["group_stats"].reference(rows.double(), 2), rtol=1e-5, atol=1e-4)


# ---- counters -------------------------------------------------------------------------------------------------------


def test_each_stream_and_each_capture_has_counters_of_its_own(shim: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that comes back has those of before."""

    def slice_of(stream: int, capture: int | None) -> int:
        if capture is None:
            monkeypatch.delenv("SIGE_SHIM_CAPTURES", raising=False)
        else:
            monkeypatch.setenv("SIGE_SHIM_CAPTURES", str(capture))
        return int(shim.sige_counter_slice(ctypes.c_void_p(stream)))

    owners = [*itertools.product((0, 8, 16), (None, 1, 2))]
    slices = [slice_of(*owner) for owner in owners]
    assert len(set(slices)) == len(owners)
    assert [slice_of(*owner) for owner in owners] == slices
    count = shim.sige_counter_slices()
    assert sorted(slice_of(0, 10 + i) for i in range(count)) == list(range(count))  # the oldest slices go to the newest
