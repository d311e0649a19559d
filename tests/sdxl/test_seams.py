"""What is painted meets the picture at the mask's edge, and nothing outside changes."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sdxl
import sige
from sdxl.pictures import seams
from sdxl.pictures.masks import composite
from sdxl.pictures.seams import put_together, spread
from tests.sdxl.edits import load, picture, rectangle, sampling

SIDE = 48


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(40, 200, (SIDE, SIDE, 3), dtype=np.uint8))


def flat(value: int) -> Image.Image:
    return Image.new("RGB", (SIDE, SIDE), (value, value, value))


def mask_of(*boxes: tuple[int, int, int, int]) -> Any:
    """1 in boxes of top, left, bottom, right."""
    mask = np.zeros((SIDE, SIDE), dtype=np.float32)
    for top, left, bottom, right in boxes:
        mask[top:bottom, left:right] = 1
    return mask


MASKS = {
    "a rectangle": mask_of((10, 8, 30, 41)),
    "at the border": mask_of((0, 0, 17, 48)),
    "two that meet at a corner": mask_of((4, 4, 20, 20), (20, 20, 40, 45)),
    "with a hole": mask_of((6, 6, 42, 42)) * (1 - mask_of((20, 20, 22, 23))),
    "one pixel": mask_of((13, 27, 14, 28)),
}


def edge_of(inside: Any) -> Any:
    """The pixels outside that have a pixel inside beside them, above or below."""
    padded = np.pad(inside, 1)
    return (padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]) & ~inside


def solved(values: Any, inside: Any, edge: Any) -> Any:
    """What `spread` approaches: every pixel inside is the mean of its neighbours in the picture."""
    places = {tuple(place): number for number, place in enumerate(np.argwhere(inside))}
    matrix, right = np.eye(len(places)), np.zeros((len(places), values.shape[2]))
    for (y, x), number in places.items():
        around = [(y + down, x + across) for down, across in seams.SIDES]
        around = [(min(max(a, 0), SIDE - 1), min(max(b, 0), SIDE - 1)) for a, b in around]  # the border reflects
        for place in around:
            if inside[place]:
                matrix[number, places[place]] -= 0.25
            else:
                right[number] += 0.25 * values[place]
    exact = values * edge[..., None]
    exact[inside] = np.linalg.solve(matrix, right)
    return exact


def test_examples() -> None:
    found = doctest.testmod(seams)
    assert found.attempted and not found.failed


@pytest.mark.parametrize("name", MASKS)
def test_values_spread_from_the_edge_as_heat_does(name: str) -> None:
    inside = MASKS[name] > 0
    edge = edge_of(inside)
    y, x = np.mgrid[:SIDE, :SIDE]
    values = np.stack([x, y * 2 - x, 30 * np.sin(x / 5 + y / 9)], axis=2).astype(np.float32)
    found, exact = spread(values, inside, edge), solved(values, inside, edge)
    assert np.array_equal(found[edge], values[edge]) and not found[~inside & ~edge].any()
    assert np.abs(found - exact)[inside].max() < 0.06 * np.ptp(values[edge], axis=0).max() + 1e-4
    low, high = values[edge].min(axis=0), values[edge].max(axis=0)
    assert (found[inside] >= low - 1e-3).all() and (found[inside] <= high + 1e-3).all()


@pytest.mark.parametrize("name", MASKS)
def test_another_shade_meets_at_the_edge_and_stays_deep_inside(name: str) -> None:
    inside = MASKS[name] > 0
    made = np.asarray(put_together(flat(100), flat(130), MASKS[name], 8))[..., 0]
    assert (made[~inside] == 100).all()
    assert np.abs(made[inside & edge_of(~inside)].astype(int) - 100).max() <= 4  # fades by a ninth a pixel
    deep = seams.feather_mask(MASKS[name], 8) == 1
    assert (made[deep] == 130).all() and deep.any() == (name != "one pixel")


@pytest.mark.parametrize("name", MASKS)
def test_outside_the_mask_every_pixel_stays(name: str) -> None:
    before, soft = noise(1), MASKS[name] * np.float32(0.6)
    for mask in (MASKS[name], soft):
        made = np.asarray(put_together(before, noise(2), mask, 16))
        assert np.array_equal(made[mask == 0], np.asarray(before)[mask == 0])
        assert not np.array_equal(made, np.asarray(composite(before, noise(2), mask)))


def test_what_fits_already_does_not_change() -> None:
    picture = noise(3)
    made = np.array(picture)
    made[20:28, 20:28] += 9  # far from the edge
    painted = Image.fromarray(made)
    whole = np.ones((SIDE, SIDE), dtype=np.float32)
    for mask, width in ((MASKS["a rectangle"], 0), (whole, 16), (0 * whole, 16)):
        assert put_together(picture, noise(4), mask, width) == composite(picture, noise(4), mask)
    smooth = flat(90)
    assert put_together(smooth, smooth, MASKS["with a hole"], 16) == smooth
    assert np.array_equal(np.asarray(put_together(flat(90), painted, whole, 16)), made)


@pytest.fixture(scope="module")
def pipe(project_folder: Path) -> Any:
    return load(project_folder, "inpainting")


@pytest.mark.parametrize("policy", [None, sige.Temporal(dense_steps=2), sige.Lockstep()])
def test_an_edit_is_the_plain_one_with_its_edge_matched(pipe: Any, policy: sige.Policy | None) -> None:
    asked: dict[str, Any] = {"mask": rectangle(), "sampling": sampling(), "policy": policy}
    plain, matched = (sdxl.edit(pipe, picture(), match_edge=width, **asked).image for width in (0, 6))
    assert matched == put_together(picture(), plain, rectangle(), 6) != plain


def test_a_part_is_matched_when_it_is_put_back(pipe: Any) -> None:
    mask = np.zeros((64, 64), dtype=np.float32)
    mask[20:36, 24:44] = 1
    asked: dict[str, Any] = {"mask": mask, "sampling": sampling(), "only_masked": 8}
    plain, matched = (sdxl.edit(pipe, picture(), match_edge=width, **asked).image for width in (0, 6))
    assert matched == put_together(picture(), plain, mask, 6) != plain


def test_a_session_matches_and_tries_again_with_the_same(pipe: Any) -> None:
    with sdxl.Session(pipe, picture()) as session:
        plain = session.edit(rectangle(), sampling()).image
        matched = session.edit(rectangle(), sampling(), match_edge=6).image
        assert matched == put_together(picture(), plain, rectangle(), 6) != plain
        assert session.retry().image == matched
