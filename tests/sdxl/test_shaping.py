"""Masks that grow and get a soft edge, and edits of the part around a mask."""

from __future__ import annotations

import doctest
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sige
from sdxl.edits import crop
from sdxl.edits.crop import Crop, context_box
from sdxl.edits.edit import edit, sdedit
from sdxl.edits.request import Request
from sdxl.edits.run import run
from sdxl.errors import InputError
from sdxl.pictures import shaping
from sdxl.pictures.masks import Mask
from sdxl.pictures.shaping import feather_mask, grow_mask
from tests.sdxl.edits import drawn, load, picture, rectangle, sampling

MASKS = st.integers(0, 10**6).map(lambda seed: random_mask(np.random.default_rng(seed)))


def random_mask(rng: np.random.Generator) -> Mask:
    """Rectangles of grey and white on black."""
    mask = np.zeros(rng.integers(1, 24, 2), dtype=np.float32)
    for _ in range(rng.integers(0, 4)):
        top, left = (int(rng.integers(0, side)) for side in mask.shape)
        height, width = rng.integers(1, 9, 2)
        mask[top : top + height, left : left + width] = rng.choice([0.25, 1])
    return mask


def by_hand(mask: Mask, pixels: int, choose: Any, beyond: float) -> Mask:
    """The largest or smallest value of the square around each pixel, one by one."""
    padded = np.pad(mask, pixels, constant_values=beyond)
    side = 2 * pixels + 1
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side))
    return choose(windows, axis=(2, 3))


@pytest.fixture(scope="module")
def pipe(project_folder: Path) -> Any:
    return load(project_folder, "inpainting")


# ---- grow and feather ------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(mask=MASKS, pixels=st.integers(0, 9))
def test_growing_takes_the_largest_of_the_square(mask: Mask, pixels: int) -> None:
    assert np.array_equal(grow_mask(mask, pixels), by_hand(mask, pixels, np.max, 0))


@settings(max_examples=60, deadline=None)
@given(mask=MASKS, pixels=st.integers(0, 9))
def test_a_soft_edge_is_the_mean_of_smaller_and_smaller_masks(mask: Mask, pixels: int) -> None:
    steps = [by_hand(mask, step, np.min, 1) for step in range(pixels + 1)]
    soft = feather_mask(mask, pixels)
    assert np.allclose(soft, np.mean(steps, axis=0), atol=1e-6)
    assert np.array_equal(soft == 0, mask == 0)  # black stays black, and nothing that is painted is lost
    assert (soft <= mask + 1e-6).all()


def test_a_soft_edge_of_a_mask_that_reaches_the_border() -> None:
    assert (feather_mask(np.ones((9, 9), dtype=np.float32), 4) == 1).all()


@pytest.mark.parametrize("module", [shaping, crop])
def test_examples(module: Any) -> None:
    found = doctest.testmod(module)
    assert found.attempted and not found.failed


@pytest.mark.parametrize("policy", [None, sige.Temporal(dense_steps=2), sige.Lockstep()])
def test_outside_the_grown_mask_every_pixel_stays(pipe: Any, policy: sige.Policy | None) -> None:
    before, asked = np.asarray(picture()), sampling()
    hard = np.asarray(edit(pipe, picture(), mask=rectangle(), sampling=asked, policy=policy, grow=5).image)
    soft = edit(pipe, picture(), mask=rectangle(), sampling=asked, policy=policy, grow=5, mask_blur=6)
    grown = grow_mask(rectangle(), 5) > 0
    assert np.array_equal(hard[~grown], before[~grown]) and (hard != before)[grown & (rectangle() == 0)].any()
    after = np.asarray(soft.image)
    assert np.array_equal(after[~grown], before[~grown])
    inner = feather_mask(grow_mask(rectangle(), 5), 6) == 1
    assert inner.any() and np.array_equal(after[inner], hard[inner])  # the same pass, another edge
    edge = grown & ~inner
    assert np.abs(after[edge].astype(int) - before[edge]).mean() < np.abs(hard[edge].astype(int) - before[edge]).mean()


def test_a_request_keeps_the_drawn_mask_and_shapes_it_once() -> None:
    request = Request(sampling(), image=picture(), mask=rectangle(), grow=3)
    again = replace(request, sampling=sampling(seed=8))
    assert np.array_equal(again.mask, rectangle())
    assert np.array_equal(again.alpha, grow_mask(rectangle(), 3))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"grow": -1}, "grow: got -1, expected a number of pixels from 0 to 1024"),
        ({"mask_blur": 257}, "mask_blur: got 257, expected a number of pixels from 0 to 256"),
        ({"match_edge": 257}, "match_edge: got 257, expected a number of pixels from 0 to 256"),
        ({"match_edge": 8, "mask": None}, "match_edge: got 8 without a mask"),
        ({"only_masked": 5000}, "only_masked: got 5000"),
        ({"grow": 4, "mask": None}, "grow: got 4 without a mask"),
        ({"only_masked": 0, "mask": None}, "only_masked: there is no mask"),
        ({"size": (64, 64)}, "size: got .* beside a picture"),
        ({"only_masked": 0, "size": (60, 64)}, "size: got 60x64, expected multiples of 8"),
    ],
)
def test_what_a_request_refuses(said: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Request(sampling(), **{"image": picture(), "mask": rectangle(), **said})


# ---- only the masked part --------------------------------------------------------------------------------------------


def strokes(width: int, height: int) -> Mask:
    mask = np.zeros((height, width), dtype=np.float32)
    mask[100:130, 300:360] = 1
    mask[104, 290:300] = 0.5
    return mask


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_box_holds_mask_and_context_and_stays_in_the_picture(data: st.DataObject) -> None:
    height, width = (data.draw(st.integers(1, 90)) for _ in range(2))
    mask = np.zeros((height, width), dtype=np.float32)
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    bottom, right = data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width))
    mask[top:bottom, left:right] = 1
    padding, shape = data.draw(st.integers(0, 40)), data.draw(st.sampled_from([(64, 64), (64, 128), (96, 32)]))
    box = context_box(mask, padding, shape)
    assert 0 <= box[0] <= max(left - padding, 0) and 0 <= box[1] <= max(top - padding, 0)
    assert min(right + padding, width) <= box[2] <= width and min(bottom + padding, height) <= box[3] <= height
    tall, wide = box[3] - box[1], box[2] - box[0]
    off = abs(tall * shape[1] - wide * shape[0])  # of the proportions, up to a rounded pixel, or to the picture's room
    assert off <= max(shape) or tall == height or wide == width


@pytest.mark.parametrize("policy", [None, sige.Temporal(dense_steps=2), sige.Lockstep()])
def test_a_part_of_a_large_picture_is_painted_at_the_model_s_size(pipe: Any, policy: sige.Policy | None) -> None:
    large, mask = picture(640, 400), strokes(640, 400)
    shaping: dict[str, Any] = {"only_masked": 24, "mask_blur": 3}
    result = edit(pipe, large, mask=mask, sampling=sampling(), policy=policy, **shaping)
    before, after = np.asarray(large), np.asarray(result.image)
    assert np.array_equal(after[mask == 0], before[mask == 0])
    assert (after != before)[mask == 1].any()
    assert result.region.image_size == (256, 256)  # the tiny model's own
    if policy is not None:
        assert result.passes["unet"].packed > 0


@pytest.mark.parametrize("blur", [0, 5])
def test_the_part_is_that_of_a_crop_by_hand(pipe: Any, blur: int) -> None:
    """With a box of the size that is asked for, nothing is resized; a soft edge is blended once."""
    large, mask = picture(640, 400), np.zeros((400, 640), dtype=np.float32)
    mask[100:120, 300:340] = 1
    request = Request(sampling(), image=large, mask=mask, only_masked=12, size=(64, 64), mask_blur=blur)
    left, top, right, bottom = Crop.of(request).box
    assert (right - left, bottom - top) == (64, 64)
    part = large.crop((left, top, right, bottom))
    by_hand = edit(pipe, part, mask=mask[top:bottom, left:right], sampling=sampling(), mask_blur=blur)
    whole = run(pipe, request).image
    assert np.array_equal(np.asarray(whole.crop((left, top, right, bottom))), np.asarray(by_hand.image))


def test_a_mask_from_edge_to_edge_takes_proportions_of_its_own(pipe: Any) -> None:
    mask = np.zeros((64, 256), dtype=np.float32)
    mask[:, 8:250] = 1
    request = Request(sampling(), image=picture(256, 64), mask=mask, only_masked=0, size=(64, 64))
    part = Crop.of(request).part
    assert part.padded_size == (32, 128)
    assert run(pipe, request).image.size == (256, 64)


def test_an_empty_mask_gives_the_picture_back(pipe: Any) -> None:
    result = edit(pipe, picture(), mask=np.zeros((64, 64)), sampling=sampling(), only_masked=8, grow=4, mask_blur=4)
    assert np.array_equal(np.asarray(result.image), np.asarray(picture()))


def test_shaping_is_inpainting_s(pipe: Any) -> None:
    with pytest.raises(TypeError):
        sdedit(pipe, picture(), drawn(), sampling=sampling(), grow=3)  # type: ignore[call-arg]
