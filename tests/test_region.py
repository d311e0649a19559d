"""Regions: every level against a loop that follows the definition, the laws of sets, the errors."""

import doctest
import math
import operator
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

import sige.preview
import sige.region
from sige.errors import RegionError, SigeError
from sige.region import Region

sizes = st.tuples(st.integers(1, 19), st.integers(1, 19))
masks = sizes.flatmap(lambda size: arrays(bool, size, fill=st.just(False)))


def dilation_at(mask, dilation, h, w):
    """The dilation of a level: `dilation` for positions of up to 8 pixels, half of it up to 16, a quarter up to 32."""
    cell = max(mask.shape[0] / h, mask.shape[1] / w)
    while cell > 8 * 2**0.5:
        cell, dilation = cell / 2, dilation // 2
    return dilation


def active_by_definition(mask, dilation, h, w):
    """The definition as plain loops: a position is active if it covers a masked pixel; then the level is dilated."""
    dilation = dilation_at(mask, dilation, h, w)
    height, width = mask.shape
    covers = np.zeros((h, w), dtype=bool)
    for i in range(h):
        for j in range(w):
            rows = slice(math.floor(i * height / h), math.ceil((i + 1) * height / h))
            columns = slice(math.floor(j * width / w), math.ceil((j + 1) * width / w))
            covers[i, j] = mask[rows, columns].any()
    active = np.zeros_like(covers)
    for i, j in np.argwhere(covers):
        active[max(0, i - dilation) : i + dilation + 1, max(0, j - dilation) : j + dilation + 1] = True
    return active


@given(masks, st.integers(0, 6), sizes)
def test_active_is_what_the_definition_says(mask, dilation, level):
    region = Region.from_mask(mask, dilation=dilation)
    assert np.array_equal(region.active(*level), active_by_definition(mask, dilation, *level))


@given(masks, sizes)
def test_index_and_ratio_say_what_active_says(mask, level):
    region = Region.from_mask(mask)
    active = region.active(*level)
    assert region.index(*level).dtype == np.int32
    assert np.array_equal(region.index(*level), np.flatnonzero(active))
    assert region.ratio(*level) == active.mean()


@given(masks, st.integers(0, 2), sizes)
def test_the_box_holds_the_active_positions_and_no_more(mask, dilation, level):
    for region in (Region.from_mask(mask, dilation=dilation), ~Region.from_mask(mask, dilation=dilation)):
        box, (y, x) = region.box(*level), np.nonzero(region.active(*level))
        assert box == ((y.min(), x.min(), y.max() + 1, x.max() + 1) if len(y) else (0, 0, 0, 0))


@given(sizes, st.data(), sizes)
def test_a_single_pixel_survives_at_every_level(size, data, level):
    mask = np.zeros(size, dtype=bool)
    pixel = tuple(data.draw(st.integers(0, extent - 1)) for extent in size)
    mask[pixel] = True
    active = Region.from_mask(mask, dilation=0).active(*level)
    # The pixel lies in the position at its own share of the image.
    assert active[tuple(p * count // extent for p, count, extent in zip(pixel, level, size, strict=True))]


@pytest.mark.parametrize("level", [(128, 128), (64, 64), (32, 32), (16, 16), (7, 5), (1, 1), (333, 257)])
def test_a_thin_stroke_stays_unbroken(level):
    mask = np.zeros((1024, 1024), dtype=bool)
    mask[511] = True
    mask[:, 3] = True
    active = Region.from_mask(mask, dilation=0).active(*level)
    assert active.all(axis=1).any() and active.all(axis=0).any()


def test_dilation_counts_positions_of_the_level_not_pixels():
    mask = np.zeros((64, 64), dtype=bool)
    mask[32, 32] = True
    region = Region.from_mask(mask, dilation=2)
    assert [int(region.active(n, n).sum()) for n in (64, 16, 8)] == [25, 25, 25]
    assert region.ratio(4, 4) == 9 / 16  # positions 16 pixels wide: one to either side


def test_dilation_halves_at_each_level_coarser_than_eight_pixels():
    mask = np.zeros((512, 512), dtype=bool)
    mask[255, 255] = True
    region = Region.from_mask(mask, dilation=4)
    reach = {cell: region.active(512 // cell, 512 // cell).any(axis=0).sum() // 2 for cell in (1, 4, 8, 16, 32, 64)}
    assert reach == {1: 4, 4: 4, 8: 4, 16: 2, 32: 1, 64: 0}
    odd = Region.from_mask(np.pad(mask, ((0, 8), (0, 24))), dilation=2)  # 65 x 67 latents, then 33 x 34 and 17 x 17
    widths = [odd.active(*level).any(axis=0).sum() for level in ((65, 67), (33, 34), (17, 17))]
    assert widths == [5, 3, 1]


def test_dilation_beyond_the_level_fills_it():
    assert Region.from_mask(np.eye(3), dilation=1000).ratio(2, 9) == 1
    assert Region.from_mask(np.zeros((3, 3)), dilation=1000).ratio(2, 9) == 0


@pytest.mark.parametrize(
    "convert",
    [
        lambda mask: mask,
        lambda mask: mask.tolist(),
        lambda mask: mask.astype(np.uint8) * 255,
        lambda mask: mask.astype(np.float16) * 0.01,
        lambda mask: -mask.astype(np.int64),
        lambda mask: np.asfortranarray(mask),
        lambda mask: mask[::-1, ::-1].copy()[::-1, ::-1],
        lambda mask: torch.from_numpy(mask),
        lambda mask: torch.from_numpy(mask).to(torch.bfloat16).requires_grad_(),
        lambda mask: torch.from_numpy(mask).double() * 1e-300,  # not zero, though zero in float32
        lambda mask: Image.fromarray(mask.astype(np.uint8) * 3),
        lambda mask: Image.fromarray(mask.astype(np.uint8) * 255).convert("1"),
    ],
    ids="bool list uint8 float16 negative fortran strided tensor bfloat16 tiny pil-L pil-1".split(),
)
def test_every_kind_of_mask_gives_the_same_region(convert):
    mask = np.random.default_rng(0).random((13, 17)) < 0.1
    assert np.array_equal(Region.from_mask(convert(mask), dilation=0).active(13, 17), mask)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_mask_may_be_on_the_gpu():
    assert Region.from_mask(torch.ones(4, 4, device="cuda")).ratio(2, 2) == 1


@given(masks, masks, st.integers(0, 2), st.integers(0, 2), sizes, st.data())
def test_set_operations_hold_level_by_level(mask, other, dilation, other_dilation, level, data):
    other = np.resize(other, mask.shape)
    a, b = Region.from_mask(mask, dilation=dilation), Region.from_mask(other, dilation=other_dilation)
    x, y = a.active(*level), b.active(*level)
    assert np.array_equal((a | b).active(*level), x | y)
    assert np.array_equal((a & b).active(*level), x & y)
    assert np.array_equal((a - b).active(*level), x & ~y)
    assert np.array_equal((~a).active(*level), ~x)
    assert np.array_equal((~(a | b)).active(*level), (~a & ~b).active(*level))
    assert np.array_equal((a - b).active(*level), (a & ~b).active(*level))


def test_full_and_empty():
    full, empty = Region.full(30, 50), Region.empty(30, 50)
    assert full.ratio(7, 9) == 1 and empty.ratio(7, 9) == 0
    assert full.image_size == empty.image_size == (30, 50)
    assert len(empty.index(7, 9)) == 0
    assert (~empty).ratio(7, 9) == 1


def test_the_caller_cannot_change_a_region():
    mask = np.zeros((8, 8), dtype=bool)
    region = Region.from_mask(mask, dilation=0)
    mask[:] = True
    assert region.ratio(8, 8) == 0
    for made in (region, ~region, region | region, Region.full(8, 8), Region.from_mask(mask, dilation=1)):
        for array in (made.active(8, 8), made.active(4, 4), made.index(8, 8)):
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0
    with pytest.raises(AttributeError):
        region.image_size = (1, 1)


def test_levels_are_derived_once_and_lazily():
    region = Region.from_mask(np.eye(8))
    assert region.active(4, 4) is region.active(np.int64(4), 4)
    assert region.index(4, 4) is region.index(4, 4)
    assert region.index(8, 8) is not region.index(4, 4)


def test_regions_compare_by_identity_so_they_can_key_a_cache():
    assert Region.full(8, 8) != Region.full(8, 8)
    region = Region.full(8, 8)
    assert {region: 1}[region] == 1


def test_a_region_can_be_pickled():
    region = Region.from_mask(np.eye(8)) - Region.from_mask(np.eye(8)[::-1], dilation=0)
    copy = pickle.loads(pickle.dumps(region))
    assert np.array_equal(copy.active(5, 4), region.active(5, 4))


def test_images_that_differ_in_any_channel_by_more_than_the_threshold():
    original = np.full((6, 6, 4), 100, dtype=np.uint8)
    edited = original.copy()
    edited[0, 0, 0], edited[1, 1, 1], edited[2, 2, 3] = 108, 91, 255  # 8 up, 9 down, and alpha
    found = Region.from_images(original, edited, threshold=8 / 255, dilation=0).index(6, 6)
    assert found.tolist() == [7, 14]
    assert Region.from_images(original, edited, dilation=0).index(6, 6).tolist() == [0, 7, 14]
    assert Region.from_images(original, original).ratio(6, 6) == 0
    assert Region.from_images(original, edited, threshold=1.0).ratio(6, 6) == 0
    assert Region.from_images(original, edited, dilation=2).ratio(6, 6) > Region.from_images(original, edited).ratio(
        6, 6
    )


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255))
def test_uint8_differences_never_wrap(before, after, steps):
    region = Region.from_images(np.uint8([[before]]), np.uint8([[after]]), threshold=steps / 255, dilation=0)
    assert region.ratio(1, 1) == (abs(before - after) > steps)


@pytest.mark.parametrize(
    "convert",
    [
        Image.fromarray,
        torch.from_numpy,
        lambda image: (image / 255).astype(np.float32),
        lambda image: torch.from_numpy(image).to(torch.bfloat16) / 255,
    ],
    ids=["pil", "tensor", "float32", "bfloat16"],
)
def test_every_kind_of_image(convert):
    original = np.random.default_rng(0).integers(0, 200, (5, 7, 3), dtype=np.uint8)
    edited = original.copy()
    edited[2, 3] += 50
    region = Region.from_images(convert(original), convert(edited), threshold=0.1, dilation=0)
    assert region.index(5, 7).tolist() == [17]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros(4), r"mask: got shape \(4,\), expected \[H, W\]"),
        (np.zeros((1, 4, 4)), r"mask: got shape \(1, 4, 4\)"),
        (np.zeros((0, 4)), "at least 1 x 1"),
        ([[0.0, np.nan]], "NaN"),
        (torch.tensor([[0.0, torch.inf]], dtype=torch.bfloat16), "infinite"),
        ([[1, 2], [3]], "mask: got list"),
        ([["a"]], "expected real numbers"),
        (np.zeros((2, 2), dtype=complex), "got complex128"),
        (None, "got object"),
        (torch.zeros(2, 2, device="meta"), "mask: got Tensor"),
        (Image.new("RGB", (4, 4)), "convert"),
        (Image.new("P", (4, 4)), "palette"),
    ],
)
def test_bad_masks(mask, message):
    with pytest.raises(RegionError, match=message):
        Region.from_mask(mask)


@pytest.mark.parametrize("dilation", [-1, 1.0, True, None, "1"])
def test_bad_dilation(dilation):
    with pytest.raises(RegionError, match="dilation: got .*, expected an integer of at least 0"):
        Region.from_mask(np.eye(4), dilation=dilation)


@pytest.mark.parametrize(
    ("original", "edited", "message"),
    [
        (np.zeros((4, 4)), np.zeros((4, 5)), r"edited: got float64 of shape \(4, 5\)"),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 4), np.uint8), r"edited: .* \(4, 4, 4\)"),
        (np.zeros((4, 4)), np.zeros((4, 4), np.uint8), "edited: got uint8"),
        (np.zeros((4, 4)), np.full((4, 4), np.nan), "edited: got NaN"),
        (np.zeros((1, 3, 4, 4)), np.zeros((1, 3, 4, 4)), r"original: got float64 of shape \(1, 3, 4, 4\)"),
        (np.zeros((4, 4), int), np.zeros((4, 4), int), "original: got int64"),
        (Image.new("P", (4, 4)), Image.new("P", (4, 4)), "original: got a palette"),
    ],
)
def test_bad_images(original, edited, message):
    with pytest.raises(RegionError, match=message):
        Region.from_images(original, edited)


@pytest.mark.parametrize("threshold", [-0.1, np.nan, np.inf, "0", None, True])
def test_bad_threshold(threshold):
    with pytest.raises(RegionError, match="threshold: got"):
        Region.from_images(np.zeros((4, 4)), np.zeros((4, 4)), threshold=threshold)


@pytest.mark.parametrize("level", [(0, 4), (4, -1), (4, 4.0), (True, 4), (2**16, 2**16)])
def test_bad_level(level):
    region = Region.full(8, 8)
    for derive in (region.active, region.index, region.ratio, Region.full, Region.empty):
        with pytest.raises(RegionError, match="(height|width|level): got .*, expected"):
            derive(*level)


@pytest.mark.parametrize("operation", [operator.or_, operator.and_, operator.sub])
def test_regions_of_different_images_do_not_combine(operation):
    with pytest.raises(RegionError, match=r"got image sizes \(8, 8\) and \(8, 9\), expected the same"):
        operation(Region.full(8, 8), Region.full(8, 9))
    with pytest.raises(TypeError):
        operation(Region.full(8, 8), np.ones((8, 8)))


def test_region_errors_can_be_caught_as_ours_and_as_value_errors():
    assert issubclass(RegionError, SigeError) and issubclass(RegionError, ValueError)


def test_repr_tells_size_and_share():
    assert repr(Region.from_mask(np.eye(4), dilation=0)) == "Region(image_size=(4, 4), ratio=0.2500)"


def test_preview_shows_each_level_in_its_own_panel():
    mask = np.zeros((512, 256), dtype=bool)
    mask[100] = True
    region = Region.from_mask(mask, dilation=0)
    colours = np.asarray(region.preview()).reshape(-1, 3)
    assert (colours == sige.preview._ACTIVE).all(axis=1).any()
    assert (colours == sige.preview._INACTIVE).all(axis=1).any()
    one, two = region.preview([(64, 32)]), region.preview([(64, 32), (8, 4)])
    assert one.height == two.height and two.width > one.width


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (17, 1023)])
def test_preview_of_any_shape(size):
    assert Region.full(*size).preview().mode == "RGB"


def test_preview_of_nothing():
    with pytest.raises(RegionError, match="levels: got none"):
        Region.full(8, 8).preview([])

    assert doctest.testmod(sige.region).failed == 0
    assert doctest.testmod(sige.preview).failed == 0
    assert doctest.testmod(sige.region).failed == 0
