"""The edits: sizes, shapes, prompts, always the same; and the crops around their masks."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from benchmarks.quality.crop import crop_box
from benchmarks.quality.edits import ASKS, CLASSES, TEN_PERCENT, Edit, digest, held_out_edits
from benchmarks.quality.metrics import dilate
from benchmarks.quality.shapes import SHAPES, draw_mask
from sdxl.scenes.draw import draw, thing_mask
from sdxl.scenes.numbered import HELD_OUT, scene_at
from sdxl.scenes.scene import GROUND_WORDS, SKY_WORDS


@pytest.fixture(scope="module")
def edits() -> list[Edit]:
    return held_out_edits()


def test_there_are_fifty_edits_of_every_size_shape_and_kind(edits: list[Edit]) -> None:
    assert len(edits) == 50 and [edit.number for edit in edits] == list(range(50))
    assert all(0.02 <= edit.share < 0.40 for edit in edits)
    per_class = [sum(edit.is_within(shares) for edit in edits) for shares in CLASSES.values()]
    assert sum(per_class) == 50 and min(per_class) >= 12
    assert sum(edit.is_within(TEN_PERCENT) for edit in edits) >= 12
    for shares in (*CLASSES.values(), TEN_PERCENT):
        inside = [edit for edit in edits if edit.is_within(shares)]
        assert min(Counter(edit.shape for edit in inside)[shape] for shape in SHAPES) >= 3
        assert min(Counter(edit.asks for edit in inside)[asks] for asks in ASKS) >= 5


def test_the_edits_are_the_same_every_time_and_their_digest_sees_a_change(edits: list[Edit]) -> None:
    again = held_out_edits()
    assert digest(again) == digest(edits)
    again[7].mask[0, 0] ^= True
    assert digest(again) != digest(edits)


def test_pictures_are_held_out_scenes_and_prompts_ask_for_something_else(edits: list[Edit]) -> None:
    for edit in edits:
        assert edit.scene == scene_at(HELD_OUT + edit.number)
        assert edit.image.tobytes() == draw(edit.scene, 256).tobytes()
        assert f"a {edit.scene.colour} {edit.scene.thing} " not in edit.prompt
        assert any(words in edit.prompt for words in SKY_WORDS[edit.scene.sky])
        assert any(words in edit.prompt for words in GROUND_WORDS[edit.scene.ground])


def test_where_another_thing_is_wanted_the_mask_is_on_the_thing(edits: list[Edit]) -> None:
    for edit in edits:
        if edit.asks == "another thing":
            thing = thing_mask(edit.scene, 256)
            assert (thing & edit.mask).sum() > 0.25 * min(thing.sum(), edit.mask.sum())


@pytest.mark.parametrize("share", [0.02, 0.1, 0.4])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_mask_has_its_share_and_its_shape(shape: str, share: float) -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        mask = draw_mask(shape, share, tuple(rng.uniform(50, 200, 2)), 256, rng)  # type: ignore[arg-type]
        assert mask.mean() == pytest.approx(share, rel=0.06 if shape == "rectangle" else 1e-3)
        assert components(mask) == (2 if shape == "two regions" else 1)
        if shape == "rectangle":
            assert mask.sum() == mask.any(axis=0).sum() * mask.any(axis=1).sum()


def components(mask: np.ndarray) -> int:  # bool [H, W]
    """The number of separate regions, in cells of 8 pixels; diagonal neighbours touch."""
    cells = mask.reshape(mask.shape[0] // 8, 8, -1, 8).any(axis=(1, 3))
    count = 0
    while cells.any():
        region = np.zeros_like(cells)
        region[np.unravel_index(cells.argmax(), cells.shape)] = True
        while (grown := dilate(region, 1) & cells).sum() > region.sum():
            region = grown
        cells, count = cells & ~region, count + 1
    return count


@pytest.mark.parametrize(
    ("rows", "columns", "box"),
    [
        ((100, 140), (100, 140), (56, 56, 184, 184)),  # 104 with the margin: the least
        ((0, 20), (236, 256), (128, 0, 256, 128)),  # in a corner: moved inside
        ((60, 200), (100, 140), (56, 0, 184, 256)),  # 204 high with the margin: the whole picture
        ((0, 256), (0, 256), (0, 0, 256, 256)),
    ],
)
def test_the_crop_holds_mask_and_margin(
    rows: tuple[int, int], columns: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    mask = np.zeros((256, 256), dtype=bool)
    mask[slice(*rows), slice(*columns)] = True
    assert crop_box(mask) == box


def test_every_crop_of_the_edits_is_inside_and_in_multiples(edits: list[Edit]) -> None:
    for edit in edits:
        left, top, right, bottom = crop_box(edit.mask)
        assert 0 <= left < right <= 256 and 0 <= top < bottom <= 256
        assert (right - left) % 64 == (bottom - top) % 64 == 0 and min(right - left, bottom - top) >= 128
        y, x = np.nonzero(edit.mask)
        for low, high, inside in ((left, right, x), (top, bottom, y)):
            assert low <= max(inside.min() - 32, 0) and high >= min(inside.max() + 33, 256)
