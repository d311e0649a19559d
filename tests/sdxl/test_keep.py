"""keep: an SDEdit that leaves the original as it is outside what was painted over."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import sdxl.pictures.changes
from sdxl.edits.edit import edit, sdedit
from sdxl.edits.request import Request
from sdxl.edits.result import Result
from sdxl.errors import InputError
from sdxl.pictures.changes import MARGIN, changed_alpha
from sige import Lockstep, Policy, Temporal
from tests.sdxl.edits import drawn, load, picture, sampling

POLICIES = [None, Temporal(dense_steps=3), Lockstep()]


@pytest.fixture(scope="module")
def from_picture(project_folder: Path) -> Any:
    return load(project_folder, "sdedit")


def pixels(image: Image.Image) -> npt.NDArray[np.int64]:  # [H, W, 3]
    return np.asarray(image).astype(np.int64)


def outside() -> npt.NDArray[np.bool_]:  # [H, W]
    return changed_alpha(np.asarray(picture()), np.asarray(drawn())) == 0


def changed(pipe: Any, **options: Any) -> Result:
    return sdedit(pipe, picture(), drawn(), sampling=sampling(strength=0.8), **options)


def test_examples() -> None:
    found = doctest.testmod(sdxl.pictures.changes)
    assert found.attempted and not found.failed


@pytest.mark.parametrize("policy", POLICIES)
def test_the_original_stays_bit_for_bit_outside(from_picture: Any, policy: Policy | None) -> None:
    result = pixels(changed(from_picture, policy=policy, keep="outside").image)
    assert (result == pixels(picture()))[outside()].all()
    inside = ~outside()
    assert inside.mean() < 0.6 and np.abs(result - pixels(picture()))[inside].mean() > 1


@pytest.mark.parametrize("policy", POLICIES)
def test_sparse_edits_keep_by_themselves_and_dense_ones_do_not(from_picture: Any, policy: Policy | None) -> None:
    by_itself = changed(from_picture, policy=policy).image
    named = changed(from_picture, policy=policy, keep="nothing" if policy is None else "outside").image
    assert np.array_equal(pixels(by_itself), pixels(named))


@pytest.mark.parametrize("policy", POLICIES)
def test_nothing_is_kept_where_the_user_says_so(from_picture: Any, policy: Policy | None) -> None:
    result = pixels(changed(from_picture, policy=policy, keep="nothing").image)
    assert (result != pixels(picture()))[outside()].any()


def test_the_model_paints_into_what_stays(from_picture: Any, project_folder: Path) -> None:
    """Densely, the painted cells are those of inpainting by blending, which begins with the painted-over picture."""
    alpha = changed_alpha(np.asarray(picture()), np.asarray(drawn()))
    blending = load(project_folder, "inpainting")
    assert blending.unet.config.in_channels == 4
    one = sampling(strength=0.8)
    inpainted = pixels(edit(blending, drawn(), mask=(alpha > 0).astype(np.float32), sampling=one).image)
    kept = pixels(changed(from_picture, keep="outside").image)
    assert np.abs(kept - inpainted)[alpha == 1].max() <= 1


def test_the_margin_falls_evenly_and_a_picture_that_differs_everywhere_is_all_new() -> None:
    before = np.zeros((64, 64, 3), dtype=np.uint8)
    after = before.copy()
    after[30, 30] = 9
    alpha = changed_alpha(before, after)
    assert (alpha[24:32, 24:32] == 1).all()
    assert np.allclose(alpha[28, 32 : 32 + MARGIN], np.arange(MARGIN, 0, -1) / (MARGIN + 1))
    assert (alpha > 0).sum() == (8 + 2 * MARGIN) ** 2
    assert (changed_alpha(before, before + np.uint8(1)) == 1).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"edited": drawn(), "image": picture(), "keep": "all"}, "keep: got 'all', expected one of outside, nothing"),
        ({"edited": drawn(), "keep": "outside"}, "image is missing: keep outside needs the original"),
        ({"image": picture(), "keep": "nothing"}, "keep: has no effect for img2img"),
        ({"image": picture(), "mask": np.ones((64, 64)), "keep": "outside"}, "keep: has no effect for inpainting"),
    ],
)
def test_a_keep_without_sense_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=f"^{said}"):
        Request(sampling(), **options)
