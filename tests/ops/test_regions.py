"""The ops on gather maps of random regions equal the dense layer that they replace, in every dtype and backend."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from sige import Geometry, Region, gather_map, row_map
from sige.ops import flatten_weight
from sige.ops.registry import OPS
from tests.ops.backends import TestedBackend, every_backend, every_dtype
from tests.tolerances import assert_close

GEOMETRIES = {
    "conv1x1": Geometry.conv1x1(),
    "conv3x3": Geometry.conv3x3(),
    "downsample": Geometry.downsample(),
    "downsample_asymmetric": Geometry.downsample_asymmetric(),
    "upsample_conv3x3": Geometry.upsample_conv3x3(),
}
sizes = st.tuples(st.integers(2, 9), st.integers(2, 11))
regions = sizes.flatmap(lambda size: arrays(bool, size, fill=st.just(False))).map(
    lambda mask: Region.from_mask(mask, dilation=0)
)
channels = st.sampled_from([1, 3, 8, 12, 20])
batches = st.integers(1, 2)


def named_regions() -> dict[str, Region]:
    """Regions that break wrong index arithmetic: one pixel, borders, all, none, on a grid with odd, unequal sides."""
    masks = {name: np.zeros((7, 12), dtype=bool) for name in ("none", "one pixel", "corner", "border")}
    masks["one pixel"][3, 5] = True
    masks["corner"][6, 11] = True
    masks["border"][0, :] = masks["border"][:, -1] = True
    made = {name: Region.from_mask(mask, dilation=0) for name, mask in masks.items()}
    return {**made, "all": Region.full(7, 12)}


def dense_layer(
    x: Tensor,  # [B, C, H, W]
    weight: Tensor,  # [C_out, C, kh, kw]
    bias: Tensor,  # [C_out]
    geometry: Geometry,
) -> Tensor:  # [B, C_out, H_out, W_out]
    top, left, bottom, right = geometry.padding
    x = x.repeat_interleave(geometry.upsample, 2).repeat_interleave(geometry.upsample, 3)
    return F.conv2d(F.pad(x, (left, right, top, bottom)), weight, bias, stride=geometry.stride)


def rows_of(x: Tensor, index: np.ndarray) -> Tensor:  # [B, C, H, W], [N] -> [B, N, C]
    return x.flatten(2)[:, :, torch.tensor(index).long()].transpose(1, 2).contiguous()


def check_convolution(
    backend: TestedBackend, region: Region, geometry: Geometry, batch: int, c: int, dtype: torch.dtype
) -> None:
    """Compares scale, shift, SiLU, convolution, bias and residual at the active positions with dense layers in fp64."""
    height, width = region.image_size
    found = gather_map(region, geometry, height, width)
    generator = torch.Generator().manual_seed(1000 * batch + c)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    old, new = random(batch, c, height, width), random(batch, c, height, width)
    weight, bias = random(5, c, *geometry.kernel) * (geometry.taps * c) ** -0.5, random(5)
    scale, shift = random(batch, c).float(), random(batch, c).float()
    residual = random(batch, len(found.index), 5)

    mixed = torch.where(torch.tensor(region.active(height, width)), new, old).double()
    activated = F.silu(mixed * scale[:, :, None, None].double() + shift[:, :, None, None].double())
    expected = dense_layer(activated, weight.double(), bias.double(), geometry)
    expected = rows_of(expected, region.index(*found.output_size)) + residual.double()

    packed, halo = rows_of(new, region.index(height, width)), rows_of(old, found.halo)
    arguments = (packed, halo, torch.tensor(found.index), flatten_weight(weight), bias, scale, shift, 1, residual, 0)
    on_device = [value.to(backend.device) if isinstance(value, Tensor) else value for value in arguments]
    out = backend("sparse_conv2d", *on_device)
    assert out is not None
    assert_close(out, expected, dtype)

    full = rows_of(old, np.arange(height * width))  # a caller that holds the whole recording
    on_device[1], on_device[2] = full.to(backend.device), torch.tensor(found.index_full, device=backend.device)
    again = backend("sparse_conv2d", *on_device)
    assert again is not None
    assert_close(again, expected, dtype)


@every_backend
@every_dtype
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize("name", named_regions())
def test_convolution_on_named_regions(
    name: str, geometry: Geometry, dtype: torch.dtype, backend: TestedBackend
) -> None:
    check_convolution(backend, named_regions()[name], geometry, 2, 12, dtype)


@every_backend
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
@settings(max_examples=25)
@given(region=regions, batch=batches, c=channels)
def test_convolution_on_any_region(
    backend: TestedBackend, geometry: Geometry, region: Region, batch: int, c: int
) -> None:
    check_convolution(backend, region, geometry, batch, c, torch.float32)


@every_backend
@settings(max_examples=25)
@given(region=regions, batch=batches, c=channels)
def test_scatter_writes_the_active_positions_and_no_other(
    backend: TestedBackend, region: Region, batch: int, c: int
) -> None:
    height, width = region.image_size
    before, new = torch.randn(2, batch, c, height, width).unbind()
    index = region.index(height, width)
    expected = torch.where(torch.tensor(region.active(height, width)), new, before)
    dense = before.clone().to(backend.device)
    backend("scatter", dense, rows_of(new, index).to(backend.device), torch.tensor(index, device=backend.device), None)
    assert torch.equal(dense.cpu(), expected)


@every_backend
@settings(max_examples=25)
@given(region=regions, batch=batches, groups=st.sampled_from([1, 2, 4]))
def test_updated_statistics_are_those_of_the_mixed_rows(
    backend: TestedBackend, region: Region, batch: int, groups: int
) -> None:
    height, width = region.image_size
    old, new = torch.randn(2, batch, 12, height, width).unbind()
    rows = rows_of(old, np.arange(height * width))
    index = region.index(height, width)
    mixed = torch.where(torch.tensor(region.active(height, width)), new, old)
    definition = OPS["group_stats"].reference
    expected = definition(rows_of(mixed, np.arange(height * width)), groups)
    arguments = definition(rows, groups), rows, torch.tensor(index), rows_of(new, index)
    updated = backend("update_group_stats", *(value.to(backend.device) for value in arguments))
    assert updated is not None
    torch.testing.assert_close(updated.cpu(), expected, rtol=1e-5, atol=1e-4)


@every_backend
@settings(max_examples=25)
@given(region=regions, batch=batches, groups=st.sampled_from([1, 2, 4]))
def test_scale_and_shift_are_the_group_norm_of_the_mixed_rows(
    backend: TestedBackend, region: Region, batch: int, groups: int
) -> None:
    height, width = region.image_size
    old, new = torch.randn(2, batch, 12, height, width).unbind()
    weight, bias = torch.randn(2, 12).unbind()
    rows = rows_of(old, np.arange(height * width))
    index = region.index(height, width)
    mixed = torch.where(torch.tensor(region.active(height, width)), new, old)
    stats = OPS["group_stats"].reference(rows, groups)
    tensors = torch.ones(1).double(), torch.tensor(index), rows_of(new, index), weight, bias
    on_device = [value.to(backend.device) for value in tensors]
    arguments = [stats.to(backend.device)], [rows.to(backend.device)], *on_device, 1e-5
    scale, shift = (value.cpu()[:, :, None, None] for value in backend("norm_affine", *arguments))
    expected = F.group_norm(mixed, groups, weight, bias, 1e-5)
    torch.testing.assert_close(mixed * scale + shift, expected, rtol=1e-4, atol=1e-4)


@every_backend
@settings(max_examples=25)
@given(region=regions, batch=batches)
def test_attention_over_the_row_map_is_dense_attention(backend: TestedBackend, region: Region, batch: int) -> None:
    height, width = region.image_size
    old, new = torch.randn(2, 3, batch, height * width, 2, 8).unbind()  # query, key, value: [B, H * W, Hd, D]
    active = torch.tensor(region.index(height, width)).long()
    mixed = old.index_copy(2, active, new[:, :, active])
    query, key, value = (rows.transpose(1, 2) for rows in mixed.double())
    expected = F.scaled_dot_product_attention(query, key, value).transpose(1, 2)[:, active]
    fresh = [rows.contiguous().flatten(2) for rows in new[:, :, active]]
    index = torch.tensor(row_map(region, height, width))
    arguments = (*fresh, old[1].flatten(2).contiguous(), old[2].flatten(2).contiguous(), index)
    out = backend("block_attention", *(value.to(backend.device) for value in arguments), 2, None, 8**-0.5)
    assert out is not None
    expected = expected.flatten(2)
    assert_close(out, expected, torch.float32)
