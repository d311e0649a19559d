"""Gather maps, proven against dense convolutions in fp64 on the same geometry."""

import doctest
import gc
import importlib
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.nn.functional import conv2d, interpolate, pad

import sige.positions
import sige.reach
from sige.errors import GeometryError, RegionError, SigeError
from sige.geometry import Geometry, gather_map, row_map
from sige.region import Region

MODULE = importlib.import_module("sige.geometry")  # the package has a function of this name

NAMED = {
    "conv1x1": Geometry.conv1x1(),
    "conv3x3": Geometry.conv3x3(),
    "downsample": Geometry.downsample(),
    "downsample_asymmetric": Geometry.downsample_asymmetric(),
    "upsample_conv3x3": Geometry.upsample_conv3x3(),
}
UNNAMED = {
    "no padding": Geometry(),
    "stride 3": Geometry(kernel=(2, 2), stride=3),  # it skips positions
    "kernel 5x1": Geometry(kernel=(5, 1), padding=(2, 0, 2, 0)),
    "padding beyond the kernel": Geometry(kernel=(2, 3), padding=(4, 0, 1, 5)),
    "upsample to an odd size": Geometry.upsample_conv3x3((7, 13)),
    "upsample to fewer": Geometry.upsample_conv3x3((2, 3)),
    "upsample 3, stride 2": Geometry(kernel=(3, 2), stride=2, padding=(0, 1, 2, 0), upsample=3),
}
every_geometry = pytest.mark.parametrize("geometry", [*NAMED.values(), *UNNAMED.values()], ids=[*NAMED, *UNNAMED])
C_IN, C_OUT = 3, 2


def dense(
    x: torch.Tensor,  # [C, H, W]
    weight: torch.Tensor,  # [C_out, C, kh, kw]
    geometry: Geometry,
) -> torch.Tensor:  # [C_out, H_out, W_out]
    if geometry.upsample_size:
        x = interpolate(x[None], size=geometry.upsample_size, mode="nearest")[0]
    elif geometry.upsample > 1:
        x = interpolate(x[None], scale_factor=geometry.upsample, mode="nearest")[0]
    top, left, bottom, right = geometry.padding
    return conv2d(pad(x, (left, right, top, bottom))[None], weight, stride=geometry.stride)[0]


def rows_of(x: torch.Tensor) -> torch.Tensor:  # [C, H, W] -> [H * W, C]
    return x.flatten(1).T


def convolve(
    rows: torch.Tensor,  # [R, C]
    index: np.ndarray,  # [N_out, T]
    weight: torch.Tensor,  # [C_out, C, kh, kw]
) -> torch.Tensor:  # [N_out, C_out]
    zero = rows.new_zeros(1, rows.shape[1])
    gathered = torch.cat((rows, zero))[torch.tensor(index).long()]  # -1 is the last row: zero
    return torch.einsum("ntc,oct->no", gathered, weight.flatten(2))


def check_against_dense(region: Region, geometry: Geometry, height: int, width: int) -> None:
    rng = torch.Generator().manual_seed(height * 100 + width)
    old, new = torch.rand(2, C_IN, height, width, generator=rng, dtype=torch.float64).add(1)
    weight = torch.rand(C_OUT, C_IN, *geometry.kernel, generator=rng, dtype=torch.float64)
    found = gather_map(region, geometry, height, width)

    active = torch.tensor(region.active(height, width))
    expected = rows_of(dense(torch.where(active, new, old), weight, geometry))
    expected = expected[torch.tensor(region.index(*found.output_size)).long()]

    packed = rows_of(new)[torch.tensor(region.index(height, width)).long()]
    halo = rows_of(old)[torch.tensor(found.halo).long()]
    torch.testing.assert_close(convolve(torch.cat((packed, halo)), found.index, weight), expected, rtol=1e-12, atol=0)
    full = torch.cat((packed, rows_of(old)))
    torch.testing.assert_close(convolve(full, found.index_full, weight), expected, rtol=1e-12, atol=0)


def check_structure(region: Region, geometry: Geometry, height: int, width: int) -> None:
    found = gather_map(region, geometry, height, width)
    active, packed_rows = region.active(height, width), len(region.index(height, width))
    assert found.packed_rows == packed_rows
    assert found.input_size == (height, width)
    assert found.output_size == geometry.output_size(height, width)
    assert (
        found.index.shape
        == found.index_full.shape
        == (
            len(region.index(*found.output_size)),
            geometry.taps,
        )
    )
    for array in (found.index, found.index_full, found.halo):
        assert array.dtype == np.int32 and array.flags.c_contiguous and not array.flags.writeable
    # The halo: ascending, inactive, every row of it read, and nothing read beyond it.
    assert (np.diff(found.halo) > 0).all()
    assert not active.ravel()[found.halo].any()
    read = found.index[found.index >= packed_rows] - packed_rows
    assert np.array_equal(np.unique(read), np.arange(len(found.halo)))
    assert found.index.min(initial=0) >= -1
    # index_full names the same rows by their positions.
    positions = np.concatenate((np.arange(packed_rows), found.halo + packed_rows, [-1]))
    assert np.array_equal(found.index_full, positions[found.index])


def map_by_definition(region: Region, geometry: Geometry, height: int, width: int) -> tuple[list[list[int]], list[int]]:
    """Index and halo as plain loops: every kernel tap of every active output names the input position that it reads."""
    (top, left, _, _), stride = geometry.padding, geometry.stride
    rows, columns = geometry.upsampled_size(height, width)
    read = []  # [N_out, T], flat input positions
    for position in region.index(*geometry.output_size(height, width)).tolist():
        i, j = divmod(position, geometry.output_size(height, width)[1])
        taps = []
        for tap in range(geometry.taps):
            y, x = i * stride + tap // geometry.kernel[1] - top, j * stride + tap % geometry.kernel[1] - left
            inside = 0 <= y < rows and 0 <= x < columns
            taps.append(y * height // rows * width + x * width // columns if inside else -1)
        read.append(taps)
    packed = region.index(height, width).tolist()
    halo = sorted({position for taps in read for position in taps} - {-1, *packed})
    row = {position: row for row, position in enumerate([*packed, *halo])} | {-1: -1}
    return [[row[position] for position in taps] for taps in read], halo


@st.composite
def regions(draw: st.DrawFn) -> Region:
    """Regions of a part of the image, of two, of all but a part, and of one part without another."""
    size = draw(st.sampled_from([(23, 17), (16, 32), (40, 9)]), label="image size")
    masks = []
    for _ in range(2):
        mask = np.zeros(size, dtype=bool)
        top, left = (draw(st.integers(0, side - 1)) for side in size)
        part = mask[top : top + draw(st.integers(1, 12)), left : left + draw(st.integers(1, 12))]
        part[...] = draw(arrays(bool, part.shape))
        masks.append(Region.from_mask(mask, dilation=draw(st.integers(0, 2), label="dilation")))
    one, other = masks
    return draw(st.sampled_from([one, one | other, ~one, one - other]))


@every_geometry
@settings(max_examples=40)
@given(region=regions(), height=st.integers(3, 19), width=st.integers(3, 19))
def test_maps_are_what_the_definition_says(geometry, region, height, width):
    found = gather_map(region, geometry, height, width)
    index, halo = map_by_definition(region, geometry, height, width)
    assert found.index.tolist() == index
    assert found.halo.tolist() == halo


@every_geometry
@settings(max_examples=30)
@given(data=st.data())
def test_any_region_convolves_as_dense(geometry, data):
    height, width = data.draw(st.tuples(st.integers(3, 11), st.integers(3, 11)), label="input size")
    mask = data.draw(arrays(bool, data.draw(st.sampled_from([(height, width), (23, 17), (8, 40)]))))
    region = Region.from_mask(mask, dilation=data.draw(st.integers(0, 2), label="dilation"))
    check_against_dense(region, geometry, height, width)
    check_structure(region, geometry, height, width)


def one_pixel(y: int, x: int) -> np.ndarray:
    mask = np.zeros((9, 12), dtype=bool)
    mask[y, x] = True
    return mask


EDGE = np.ones((9, 12), dtype=bool)
EDGE[1:-1, 1:-1] = False
MASKS = {
    "none": np.zeros((9, 12), dtype=bool),
    "all": np.ones((9, 12), dtype=bool),
    "border": EDGE,
    "inside": ~EDGE,
    "top left": one_pixel(0, 0),
    "bottom right": one_pixel(8, 11),
    "middle": one_pixel(4, 5),
}


@every_geometry
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("size", [(9, 12), (8, 8), (5, 16), (3, 3)])
def test_named_masks_convolve_as_dense(geometry, mask, size):
    region = Region.from_mask(mask, dilation=0)
    check_against_dense(region, geometry, *size)
    check_structure(region, geometry, *size)


@every_geometry
def test_all_active_needs_no_halo_and_none_active_no_rows(geometry):
    every, none = (gather_map(make(9, 7), geometry, 9, 7) for make in (Region.full, Region.empty))
    assert len(every.halo) == 0 and len(every.index) == np.prod(every.output_size)
    assert len(none.halo) == 0 and none.index.shape == (0, geometry.taps)


def test_a_level_of_one_position():
    found = gather_map(Region.full(8, 8), Geometry.conv3x3(), 1, 1)
    assert found.index.tolist() == [[-1, -1, -1, -1, 0, -1, -1, -1, -1]]


@pytest.mark.parametrize("block", [1, 5, 64])
def test_maps_do_not_depend_on_how_they_are_cut_into_blocks(block, monkeypatch):
    mask = np.random.default_rng(0).random((20, 20)) < 0.3
    whole = gather_map(Region.from_mask(mask), Geometry.upsample_conv3x3(), 20, 20)
    monkeypatch.setattr(MODULE, "_BLOCK", block)
    cut = gather_map(Region.from_mask(mask), Geometry.upsample_conv3x3(), 20, 20)
    assert np.array_equal(whole.index, cut.index)


def test_asymmetric_padding_is_below_and_right():
    mask = np.zeros((4, 4), dtype=bool)
    mask[3, 3] = True
    found = gather_map(Region.from_mask(mask, dilation=0), Geometry.downsample_asymmetric(), 4, 4)
    assert found.output_size == (2, 2)
    assert found.index.tolist() == [[1, 2, -1, 3, 0, -1, -1, -1, -1]]
    assert found.halo.tolist() == [10, 11, 14]


@pytest.mark.parametrize(
    ("geometry", "layer"),
    [
        (Geometry.conv1x1(), lambda x, w: conv2d(x, w[..., :1, :1])),
        (Geometry.conv3x3(), lambda x, w: conv2d(x, w, padding=1)),
        (Geometry.downsample(), lambda x, w: conv2d(x, w, stride=2, padding=1)),
        (Geometry.downsample_asymmetric(), lambda x, w: conv2d(pad(x, (0, 1, 0, 1)), w, stride=2)),
        (
            Geometry.upsample_conv3x3(),
            lambda x, w: conv2d(interpolate(x, scale_factor=2.0, mode="nearest"), w, padding=1),
        ),
    ],
    ids=NAMED,
)
def test_named_geometries_are_the_layers_of_diffusers(geometry, layer):
    x, weight = torch.rand(1, 1, 6, 7, dtype=torch.float64), torch.rand(1, 1, 3, 3, dtype=torch.float64)
    expected = layer(x, weight)[0]
    found = gather_map(Region.full(6, 7), geometry, 6, 7)
    assert found.output_size == tuple(expected.shape[1:])
    kernel = weight[..., : geometry.kernel[0], : geometry.kernel[1]]
    torch.testing.assert_close(convolve(rows_of(x[0]), found.index, kernel), rows_of(expected))


@every_geometry
@given(size=st.tuples(st.integers(3, 12), st.integers(3, 12)))
def test_output_size_is_that_of_the_dense_layer(geometry, size):
    out = dense(torch.zeros(1, *size), torch.zeros(1, 1, *geometry.kernel), geometry)
    assert geometry.output_size(*size) == tuple(out.shape[1:])


@given(arrays(bool, (5, 7)), st.integers(1, 9), st.integers(1, 9))
def test_row_map_names_packed_rows_and_recorded_positions(mask, height, width):
    region = Region.from_mask(mask, dilation=0)
    rows, index = row_map(region, height, width), region.index(height, width)
    source = np.concatenate((index, np.arange(height * width)))  # packed rows, then the full recording
    assert rows.dtype == np.int32
    assert np.array_equal(source[rows], np.arange(height * width))  # each names its own position
    assert np.array_equal(rows < len(index), region.active(height, width).ravel())


def test_maps_are_built_once_and_go_with_their_region():
    region = Region.from_mask(np.eye(8))
    found = gather_map(region, Geometry.conv3x3(), 8, 8)
    assert gather_map(region, Geometry(padding=(1, 1, 1, 1)), 8, 8) is found
    assert found.index_full is found.index_full
    assert row_map(region, 8, 8) is row_map(region, 8, 8)
    assert gather_map(region, Geometry.conv1x1(), 8, 8) is not found
    assert gather_map(region, Geometry.conv3x3(), 4, 8) is not found
    assert gather_map(Region.from_mask(np.eye(8)), Geometry.conv3x3(), 8, 8) is not found
    watch = weakref.ref(region)
    del region
    gc.collect()
    assert watch() is None


def test_the_caller_cannot_change_a_map():
    region = Region.from_mask(np.eye(8), dilation=0)
    found = gather_map(region, Geometry.conv3x3(), 8, 8)
    for array in (found.index, found.index_full, found.halo, row_map(region, 8, 8)):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    with pytest.raises(AttributeError):
        found.packed_rows = 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel": (0, 3)}, r"kernel: got \(0, 3\), expected a tuple of 2 ints of at least 1"),
        ({"kernel": 3}, "kernel: got 3, expected a tuple of 2 ints"),
        ({"kernel": [3, 3]}, "kernel: got"),
        ({"kernel": (3.0, 3)}, "kernel: got"),
        ({"stride": 0}, "stride: got 0, expected an int of at least 1"),
        ({"stride": True}, "stride: got True"),
        ({"stride": (2, 2)}, r"stride: got \(2, 2\)"),
        ({"padding": (1, 1)}, r"padding: got \(1, 1\), expected a tuple of 4 ints of at least 0"),
        ({"padding": (1, 1, 1, -1)}, "padding: got"),
        ({"upsample": 0}, "upsample: got 0"),
        ({"upsample": 1.5}, "upsample: got 1.5"),
    ],
)
def test_bad_geometry(settings, message):
    with pytest.raises(GeometryError, match=message):
        Geometry(**settings)


def test_an_input_too_small_for_the_kernel():
    with pytest.raises(GeometryError, match="input: got 2 x 9, expected the padded 2 x 9 to hold a kernel"):
        gather_map(Region.full(8, 8), Geometry(), 2, 9)
    with pytest.raises(GeometryError, match="input: got 0 x 8"):
        gather_map(Region.full(8, 8), Geometry.conv3x3(), 0, 8)


def test_rows_beyond_int32():
    with pytest.raises(GeometryError, match="input: got 40000 x 40000, expected at most 1073741823 positions"):
        gather_map(Region.empty(8, 8), Geometry.conv3x3(), 40000, 40000)
    with pytest.raises(GeometryError, match="input: got 40000 x 40000"):
        row_map(Region.empty(8, 8), 40000, 40000)


def test_bad_size():
    with pytest.raises(RegionError, match="height: got 0"):
        row_map(Region.full(8, 8), 0, 8)


def test_geometry_errors_can_be_caught_as_ours_and_as_value_errors():
    assert issubclass(GeometryError, SigeError) and issubclass(GeometryError, ValueError)


def test_examples():
    for module in (MODULE, sige.positions, sige.reach):
        assert doctest.testmod(module).failed == 0
