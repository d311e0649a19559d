"""Properties of a packed pass that hold for any weights, tested on every model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import sige
from sige import Region
from tests.models.devices import every_device
from tests.models.tiny import Case, every_case, every_layout, make_case

pytestmark = every_device
every_batch = pytest.mark.parametrize("batch", [1, 2])
every_size = pytest.mark.parametrize("size", [(13, 17), (15, 9), (7, 5)], ids=str)  # latents; no multiples of 4 or 8
half_dtypes = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
few = settings(max_examples=4)

# Some hundred layers in a row; each adds an error of a few u of fp32 (2^-24 = 6e-8), random in sign.
RELATIVE_ERROR = 1e-5
# In 16 bits, dense and packed passes round activations at different places: the packed pass applies norm and SiLU
# before it rounds once, where the dense pass rounds twice; and it sums products in another order. So both errors are
# random and of the same size; over some thousand outputs their norms differ by far less than half.
ERROR_AGAINST_DENSE = 1.5


# ---- what the tests share -------------------------------------------------------------------------------------------


def relative_error(out: Tensor, expected: Tensor) -> float:
    assert out.shape == expected.shape
    assert out.isfinite().all(), "not finite"
    return float((out.double() - expected.double()).norm() / expected.double().norm())


def edit(
    case: Case,
    x: Tensor,  # [B, C, h, w], what is recorded
    edited: Tensor,  # [B, C, h, w]
    region: Region,
    samples: tuple[int, ...] | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor]:  # [B, C_out, h_out, w_out] each
    """The recorded output and the output of the packed pass."""
    with sige.enable(case.model) as handle:
        with handle.record():
            recorded = case.call(x, samples)
        with handle.edit(region, **options):
            return recorded, case.call(edited, samples)


def active(region: Region, out: Tensor) -> Tensor:  # [h_out, w_out]
    return torch.tensor(region.active(*out.shape[2:]), device=out.device)


@st.composite
def regions(draw: Callable[..., Any], case: Case) -> Region:
    """Regions of a rectangle, one pixel, a border or two blobs, dilated or not."""
    height, width = case.image_size
    mask = np.zeros((height, width), dtype=bool)
    kind = draw(st.sampled_from(["rectangle", "pixel", "border", "two blobs"]))
    if kind == "border":
        mask[draw(st.sampled_from([np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]]))] = True
    for _ in range({"border": 0, "two blobs": 2}.get(kind, 1)):
        top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        largest = {"pixel": 1, "two blobs": height // 3}.get(kind, height)
        tall, wide = draw(st.integers(1, largest)), draw(st.integers(1, largest))
        mask[top : top + tall, left : left + wide] = True
    return Region.from_mask(mask, dilation=draw(st.integers(0, 2)))


class OpCounter(TorchDispatchMode):
    """Counts our ops that run inside the block."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "sige":
            self.ran.append(func.name())
        return func(*args, **(kwargs or {}))


class Shuffled(Region):
    """A region that lists the active positions of each level in another order: a permutation of packed rows."""

    def index(self, height: int, width: int) -> Any:
        level = (height, width)
        if level not in self._index:
            ascending = np.flatnonzero(self.active(*level)).astype(np.int32)
            self._index[level] = np.random.default_rng(height * width).permutation(ascending)
        return self._index[level]


# ---- everything active ----------------------------------------------------------------------------------------------


@every_batch
@every_case
def test_all_active_equals_dense(case: str, batch: int) -> None:
    made = make_case(case)
    x, edited = made.input(1, batch), made.input(2, batch)
    dense = made.call(edited)
    _, out = edit(made, x, edited, made.full())
    assert relative_error(out, dense) <= RELATIVE_ERROR


@half_dtypes
@every_layout
def test_all_active_in_16_bits_is_as_near_to_exact_as_dense(case: str, dtype: torch.dtype) -> None:
    made = make_case(case, dtype)
    x, edited = made.input(1, 2), made.input(2, 2)
    exact = make_case(case, dtype, exact=True).call(edited.double())
    dense = made.call(edited)
    _, out = edit(made, x, edited, made.full())
    assert out.dtype == dtype
    assert relative_error(out, exact) <= ERROR_AGAINST_DENSE * relative_error(dense, exact)


@every_size
@every_case
def test_all_active_equals_dense_at_odd_sizes(case: str, size: tuple[int, int]) -> None:
    made = replace(make_case(case), size=size)
    x, edited = made.input(1), made.input(2)
    dense = made.call(edited)
    _, out = edit(made, x, edited, made.full())
    assert relative_error(out, dense) <= RELATIVE_ERROR


def test_an_encoder_takes_images_that_are_no_multiple_of_its_stride() -> None:
    made = make_case("vae-encoder")
    x, edited = (made.input(seed, 1, (8, 6))[:, :, :61, :43].contiguous() for seed in (1, 2))
    dense = made.call(edited)
    recorded, out = edit(made, x, edited, Region.full(61, 43))
    assert relative_error(out, dense) <= RELATIVE_ERROR
    region = Region.from_mask(np.arange(61 * 43).reshape(61, 43) > 40 * 43)
    _, unchanged = edit(made, x, x, region)
    assert relative_error(unchanged, recorded) <= RELATIVE_ERROR


# ---- nothing changed, nothing active --------------------------------------------------------------------------------


@every_batch
@every_case
@few
@given(data=st.data())
def test_unchanged_input_gives_the_recorded_output(case: str, batch: int, data: st.DataObject) -> None:
    made = make_case(case)
    region = data.draw(regions(made))
    x = made.input(1, batch)
    recorded, out = edit(made, x, x.clone(), region)
    assert relative_error(out, recorded) <= RELATIVE_ERROR


@every_size
@every_case
@settings(max_examples=2)
@given(data=st.data())
def test_unchanged_input_gives_the_recorded_output_at_odd_sizes(
    case: str, size: tuple[int, int], data: st.DataObject
) -> None:
    made = replace(make_case(case), size=size)
    x = made.input(1)
    recorded, out = edit(made, x, x.clone(), data.draw(regions(made)))
    assert relative_error(out, recorded) <= RELATIVE_ERROR


@half_dtypes
@every_layout
def test_unchanged_input_in_16_bits_is_as_near_to_exact_as_dense(case: str, dtype: torch.dtype) -> None:
    made = make_case(case, dtype)
    x = made.input(1, 2)
    exact = make_case(case, dtype, exact=True).call(x.double())
    region = made.rectangle(2, 3, 4, 4, dilation=1)
    recorded, out = edit(made, x, x.clone(), region)
    inside = active(region, out)
    dense_error = relative_error(recorded[..., inside], exact[..., inside])
    assert relative_error(out[..., inside], exact[..., inside]) <= ERROR_AGAINST_DENSE * dense_error


@every_case
@few
@given(data=st.data())
def test_unchanged_input_gives_the_recorded_output_with_frozen_statistics(case: str, data: st.DataObject) -> None:
    made = make_case(case)
    region = data.draw(regions(made))
    x = made.input(1)
    recorded, out = edit(made, x, x.clone(), region, exact_statistics=False)
    assert relative_error(out, recorded) <= RELATIVE_ERROR


@every_batch
@every_case
def test_empty_region_gives_the_recorded_output_bit_for_bit_and_does_no_work(case: str, batch: int) -> None:
    made = make_case(case)
    x, edited = made.input(1, batch), made.input(2, batch)
    with sige.enable(made.model) as handle:
        with handle.record():
            recorded = made.call(x)
        with handle.edit(Region.empty(*made.image_size)), OpCounter() as counter:
            out = made.call(edited)
            again = made.call(edited)
        with handle.edit(made.full()), OpCounter() as full:
            made.call(edited)
    assert torch.equal(out, recorded) and torch.equal(again, recorded)
    assert counter.ran == []
    assert len(full.ran) > 20, "the counter sees no op at all"


# ---- part of it active ----------------------------------------------------------------------------------------------


@every_batch
@every_case
@few
@given(data=st.data())
def test_outside_the_region_is_the_recorded_output_bit_for_bit(case: str, batch: int, data: st.DataObject) -> None:
    made = make_case(case)
    region = data.draw(regions(made))
    x, edited = made.input(1, batch), made.input(2, batch)
    recorded, out = edit(made, x, edited, region)
    outside = ~active(region, out)
    assert torch.equal(out[..., outside], recorded[..., outside])
    assert out.isfinite().all()
    if not outside.all():
        assert not torch.equal(out, recorded), "nothing was written"


PLACES = {
    "one pixel": (37, 26),
    "first pixel": (0, 0),
    "last pixel": (-1, -1),
    "top border": (0, slice(None)),
    "right border": (slice(None), -1),
    "bottom border": (-1, slice(None)),
}


@every_layout
@pytest.mark.parametrize("where", PLACES.values(), ids=PLACES)
def test_a_mask_of_one_pixel_or_at_the_border_recomputes_what_it_covers(case: str, where: tuple[Any, Any]) -> None:
    """The change is inside the region, which is dilated widely, so the packed pass is close to the dense one."""
    made = make_case(case)
    mask = np.zeros(made.image_size, dtype=bool)
    mask[where] = True
    region = Region.from_mask(mask, dilation=4)
    x = made.input(1)
    change = active(Region.from_mask(mask, dilation=0), x)
    edited = torch.where(change, made.input(2), x)
    dense = made.call(edited)
    recorded, out = edit(made, x, edited, region)
    inside = active(region, out)
    packed_error = relative_error(out[..., inside], dense[..., inside])
    assert packed_error < 0.85 * relative_error(recorded[..., inside], dense[..., inside])


@every_case
def test_a_batch_of_two_is_each_sample_by_itself(case: str) -> None:
    made = make_case(case)
    x, edited = made.input(1, 2), made.input(2, 2)
    region = made.rectangle(2, 3, 4, 4, dilation=1)
    _, both = edit(made, x, edited, region)
    for i in range(2):
        _, alone = edit(made, x[i : i + 1], edited[i : i + 1], region, samples=(i,))
        assert relative_error(both[i : i + 1], alone) <= RELATIVE_ERROR


@every_case
def test_a_sample_twice_in_a_batch_is_that_sample_twice(case: str) -> None:
    made = make_case(case)
    x, edited = made.input(1), made.input(2)
    region = made.rectangle(0, 5, 3, 3, dilation=1)
    _, once = edit(made, x, edited, region, samples=(1,))
    _, twice = edit(made, x.repeat(2, 1, 1, 1), edited.repeat(2, 1, 1, 1), region, samples=(1, 1))
    assert relative_error(twice, once.repeat(2, 1, 1, 1)) <= RELATIVE_ERROR


@every_layout
@few
@given(data=st.data())
def test_the_order_of_active_positions_does_not_matter(case: str, data: st.DataObject) -> None:
    made = make_case(case)
    region = data.draw(regions(made))
    x, edited = made.input(1), made.input(2)
    _, out = edit(made, x, edited, region)
    shuffled = Shuffled(region.image_size, region._derive)
    _, again = edit(made, x, edited, shuffled)
    assert relative_error(again, out) <= RELATIVE_ERROR
    assert {tuple(sorted(index)) for index in shuffled._index.values()} == {
        tuple(region.index(*level)) for level in shuffled._index
    }


@every_case
def test_a_level_without_active_positions_takes_its_recorded_rows(case: str) -> None:
    """Regions combine level by level: this one has most positions of the fine levels and none of the coarse ones."""
    made = make_case(case)
    fine, coarse = (16, 4) if made.component == "unet" else (64, 8)  # rows of the levels, all square
    dots = np.zeros(made.image_size, dtype=bool)
    dots[:: made.image_size[0] // coarse, :: made.image_size[1] // coarse] = True
    region = made.full() - Region.from_mask(dots, dilation=0)
    assert region.ratio(fine, fine) > 0.9 and region.ratio(coarse, coarse) == 0
    x = made.input(1)
    recorded, out = edit(made, x, x.clone(), region)
    assert relative_error(out, recorded) <= RELATIVE_ERROR


@every_case
def test_attention_through_sdpa_is_the_same(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """SDPA is the path of wide heads, and of fp32 on CUDA."""
    made = make_case(case)
    x, edited = made.input(1, 2), made.input(2, 2)
    region = made.rectangle(2, 3, 4, 4, dilation=1)
    _, out = edit(made, x, edited, region)
    monkeypatch.setenv("SIGE_ATTENTION", "platform")
    with sige.enable(made.model) as handle:
        with handle.record():
            made.call(x)
        with handle.edit(region), OpCounter() as counter:
            again = made.call(edited)
    assert "sige::block_attention" not in counter.ran
    assert relative_error(again, out) <= RELATIVE_ERROR


# ---- accuracy, as a trend -------------------------------------------------------------------------------------------

SEEDS = range(5)


def median_errors(
    case: Case,
    edits: list[tuple[int, bool]],  # dilation, exact statistics
    contrast: float = 1.0,
) -> list[float]:
    """Relative errors inside the mask against the dense pass, over a fixed set of recordings, masks and edits."""
    errors: list[list[float]] = [[] for _ in edits]
    for seed in SEEDS:
        generator = np.random.default_rng(seed)
        height, width = case.size
        where = (*generator.integers(0, height - height // 3, size=2), height // 3, width // 3)
        x = case.input(100 + seed)
        mask = case.rectangle(*where)
        edited = torch.where(active(mask, x), contrast * case.input(200 + seed), x)
        with sige.enable(case.model) as handle:
            dense = case.call(edited)
            inside = active(mask, dense)
            with handle.record():
                case.call(x)
            for found, (dilation, exact) in zip(errors, edits, strict=True):
                with handle.edit(case.rectangle(*where, dilation), exact_statistics=exact):
                    found.append(relative_error(case.call(edited)[..., inside], dense[..., inside]))
    return [median(found) for found in errors]


@every_layout
def test_more_dilation_does_not_cost_accuracy(case: str) -> None:
    medians = median_errors(make_case(case), [(dilation, True) for dilation in (0, 1, 2, 4)])
    assert medians == sorted(medians, reverse=True)
    assert medians[-1] < 0.8 * medians[0]


@every_layout
def test_exact_statistics_are_nearer_to_dense_than_frozen_ones(case: str) -> None:
    """The margin is wide if the edit changes the statistics: here it has three times the contrast."""
    exact, frozen = median_errors(make_case(case), [(1, True), (1, False)], contrast=3.0)
    assert exact < 0.9 * frozen
