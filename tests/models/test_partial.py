"""Part of a level active: the packed pass against a definition of it, in plain PyTorch on dense tensors.

The definition is diffusers' own dense forward, in fp64, of a model that nobody enables. Hooks freeze it: where a layer
reads other positions than its own, the inactive positions hold what dense passes had there, blended. The other layers
work on each position by itself, so what they compute at inactive positions reaches no active one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.upsampling import Upsample2D
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import sige
from sige import Recording, Region
from tests.models.test_properties import RELATIVE_ERROR, relative_error
from tests.models.tiny import Case, every_case, make_case

Weights = tuple[float, ...]

# ---- the definition -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DensePass:
    """The values that a dense pass had at each probe, and its output."""

    values: dict[nn.Module, Tensor]  # [B, C, h, w], or flat: of a norm [B, C, M], of a linear layer [B, M, C]
    output: Tensor  # [B, C_out, h_out, w_out]

    def on(self, case: Case, exact: Case) -> DensePass:
        """The same values in fp64, at the probes of the same model in fp64."""
        twins = dict(zip(case.module.modules(), exact.module.modules(), strict=True))
        return DensePass({twins[module]: value.double() for module, value in self.values.items()}, self.output.double())


def probes(root: nn.Module) -> dict[nn.Module, str]:
    """The layers whose input or output is read at other positions than it was computed at, and which of the two.

    A norm reads the whole level, and the convolution behind it reads the norm's input; the first convolution and the
    resamplers have no norm before them. Attention reads the keys and values of every position.
    """
    found: dict[nn.Module, str] = {root.conv_in: "input"}
    for module in root.modules():
        if isinstance(module, nn.GroupNorm | Downsample2D | Upsample2D):
            found[module] = "input"
        if isinstance(module, Attention) and not module.is_cross_attention:
            found[module.to_k] = found[module.to_v] = "output"
    return found


@contextmanager
def hooked(root: nn.Module, replacement: Callable[[nn.Module, Tensor], Tensor]) -> Iterator[None]:
    """Inside, the model goes on with the replacement of the value at each probe."""

    def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return replacement(module, args[0]), *args[1:]

    def after(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return replacement(module, output)

    with ExitStack() as hooks:
        for module, side in probes(root).items():
            hook = module.register_forward_pre_hook(before) if side == "input" else module.register_forward_hook(after)
            hooks.callback(hook.remove)
        yield


def dense_pass(
    case: Case,
    x: Tensor,  # [B, C, h, w]
) -> DensePass:
    """The model's own pass, with its values at the probes."""
    values: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, value: Tensor) -> Tensor:
        values[module] = value
        return value

    with hooked(case.module, keep):
        return DensePass(values, case.call(x))


def weighted(values: Sequence[Tensor], weights: Weights) -> Tensor:
    """The weighted sum of tensors of one shape."""
    return torch.stack([weight * value for value, weight in zip(values, weights, strict=True)]).sum(dim=0)


def group_norm(
    norm: nn.GroupNorm,
    x: Tensor,  # [B, C, h, w] or [B, C, M]
    sources: Sequence[Tensor],  # of the shape of x
    weights: Weights,
) -> Tensor:  # of the shape of x
    """`x`, normalised with the blended statistics of the sources: weighted means, weighted logarithms of variances."""
    groups = [source.unflatten(1, (norm.num_groups, -1)).flatten(2) for source in sources]  # [B, G, C / G * M] each
    mean = weighted([group.mean(dim=2, keepdim=True) for group in groups], weights)  # [B, G, 1]
    variance = weighted([group.var(dim=2, keepdim=True, correction=0).log() for group in groups], weights).exp()
    normal = (x.unflatten(1, (norm.num_groups, -1)).flatten(2) - mean) / (variance + norm.eps).sqrt()
    scale, shift = (parameter.reshape(-1, *[1] * (x.dim() - 2)) for parameter in (norm.weight, norm.bias))
    return normal.view_as(x) * scale + shift


@dataclass
class FrozenPass:
    """A dense pass in which a region's inactive positions hold a blend of recorded values."""

    region: Region
    recorded: list[DensePass]
    weights: Weights
    exact_statistics: bool
    size: tuple[int, ...] = ()  # height and width of the last value that was not flat

    def __call__(
        self,
        case: Case,
        edited: Tensor,  # [B, C, h, w]
    ) -> Tensor:  # [B, C_out, h_out, w_out]
        """The output that the packed pass must return."""
        norms = [module for module in case.module.modules() if isinstance(module, nn.GroupNorm)]
        with hooked(case.module, self.freeze), ExitStack() as hooks:
            for norm in norms:
                hooks.callback(norm.register_forward_hook(self.normalise).remove)
            out = case.call(edited)
        recorded = weighted([dense.output for dense in self.recorded], self.weights)
        return torch.where(self.active(case.module, out), out, recorded)

    def freeze(self, module: nn.Module, value: Tensor) -> Tensor:
        """The value, with the blend of the recorded ones at its inactive positions."""
        recorded = weighted([dense.values[module] for dense in self.recorded], self.weights)
        return torch.where(self.active(module, value), value, recorded)

    def normalise(
        self,
        norm: nn.GroupNorm,
        args: tuple[Tensor],  # the frozen input: [B, C, h, w] or [B, C, M]
        stock: Tensor,  # of the same shape
    ) -> Tensor:  # of the same shape
        """The norm's output; of a blend, each recording's statistics are updated by themselves, and then blended."""
        if len(self.recorded) == 1 and self.exact_statistics:
            return stock
        sources = [dense.values[norm] for dense in self.recorded]
        if self.exact_statistics:
            sources = [torch.where(self.active(norm, args[0]), args[0], source) for source in sources]
        return group_norm(norm, args[0], sources, self.weights)

    def active(self, module: nn.Module, value: Tensor) -> Tensor:  # bool [h, w], [M] or [M, 1]
        """The active positions, in a shape that broadcasts to the value; a flat value has the last size seen."""
        if value.dim() == 4:
            self.size = tuple(value.shape[2:])
        active = torch.tensor(self.region.active(*self.size))
        if value.dim() == 4:
            return active
        return active.flatten() if isinstance(module, nn.GroupNorm) else active.flatten()[:, None]


# ---- what the tests vary --------------------------------------------------------------------------------------------

ODD_SIZES = {"unet": (13, 18), "vae.encoder": (61, 43), "vae.decoder": (13, 18)}  # of the input
every_size = pytest.mark.parametrize("odd", [False, True], ids=["even", "odd"])
FORECASTS: list[Weights] = [(1.25, -0.25), (0.375, -1.25, 1.875)]
MOST_RECORDINGS = 3


@st.composite
def regions(draw: Callable[..., Any], height: int, width: int) -> Region:
    """A border, a rectangle, scattered pixels, one pixel; or all but that, which can leave a coarse level inactive."""
    rows, columns = st.integers(0, height - 1), st.integers(0, width - 1)
    mask = np.zeros((height, width), dtype=bool)
    kind = draw(st.sampled_from(["border", "rectangle", "scattered", "pixel"]))
    if kind == "border":
        mask[draw(st.sampled_from([np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]]))] = True
    elif kind == "rectangle":
        top, left, bottom, right = draw(rows), draw(columns), draw(rows), draw(columns)
        mask[min(top, bottom) : max(top, bottom) + 1, min(left, right) : max(left, right) + 1] = True
    else:
        places = st.lists(st.tuples(rows, columns), min_size=1, max_size=1 if kind == "pixel" else 24)
        for place in draw(places):
            mask[place] = True
    region = Region.from_mask(mask, dilation=draw(st.integers(0, 1)))
    return ~region if draw(st.booleans()) else region


@st.composite
def blends(draw: Callable[..., Any]) -> Weights:
    """Weights of two or three recordings, in eighths, that add up to 1; of any sign."""
    eighths = draw(st.lists(st.integers(-12, 12), min_size=1, max_size=MOST_RECORDINGS - 1))
    first = [eighth / 8 for eighth in eighths]
    return *first, 1.0 - sum(first)


# ---- the packed pass and the definition -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Recorded:
    """The dense passes of some inputs, each recorded by SIGE and for the definition, and another input."""

    case: Case
    exact: Case  # the same weights, computed with in fp64
    recordings: list[Recording]
    passes: list[DensePass]  # the same passes, for `exact`
    edited: Tensor  # [B, C, h, w]

    def packed(self, region: Region, weights: Weights, exact_statistics: bool) -> Tensor:  # [B, C_out, h_out, w_out]
        """The output of the packed pass; there may be fewer weights than recordings."""
        blend = list(zip(self.recordings, weights, strict=False))
        with sige.enable(self.case.model) as handle:
            with handle.edit(region, blend=blend, exact_statistics=exact_statistics):
                return self.case.call(self.edited)

    def defined(self, region: Region, weights: Weights, exact_statistics: bool) -> Tensor:  # [B, C_out, h_out, w_out]
        """The output that the packed pass must return, in fp64."""
        frozen = FrozenPass(region, self.passes[: len(weights)], weights, exact_statistics)
        return frozen(self.exact, self.edited.double())


@functools.cache
def record(name: str, odd: bool) -> Recorded:
    """The recordings of a case, made once: of two samples of its own size, or of one sample of an odd size.

    Both are of the same fp32 pass, bit for bit: the first with hooks outside the contexts, the second recorded. A pass
    of `exact` would differ from it by the dense model's rounding, which is no part of the packed pass, and which a
    forecast multiplies.
    """
    case, exact = make_case(name), make_case(name, exact=True)
    batch = 1 if odd else 2
    if odd:
        case, exact = (replace(made, size=ODD_SIZES[made.component], scale=1) for made in (case, exact))
    recordings, passes = [], []
    with sige.enable(case.model) as handle:
        for seed in range(MOST_RECORDINGS):
            sample = case.input(seed, batch)
            dense = dense_pass(case, sample)
            with handle.record() as recording:
                case.call(sample)
            recordings.append(recording)
            passes.append(dense.on(case, exact))
    return Recorded(case, exact, recordings, passes, case.input(MOST_RECORDINGS, batch))


def check(
    out: Tensor,  # [B, C_out, h_out, w_out]
    expected: Tensor,  # fp64 [B, C_out, h_out, w_out]
    active: Tensor,  # bool [h_out, w_out]
) -> None:
    """The active positions are near what is expected, and so are the inactive ones, each by themselves."""
    for where, positions in (("active", active), ("inactive", ~active)):
        if positions.any():
            error = relative_error(out[..., positions], expected[..., positions])
            assert error <= RELATIVE_ERROR, f"{where} positions: {error:.1e}"


@every_size
@every_case
@settings(max_examples=3)
@given(data=st.data())
def test_a_packed_pass_is_the_dense_one_with_frozen_positions(case: str, odd: bool, data: st.DataObject) -> None:
    recorded = record(case, odd)
    region, exact_statistics = data.draw(regions(*recorded.case.image_size)), data.draw(st.sampled_from([True, False]))
    out = recorded.packed(region, (1.0,), exact_statistics)
    active = torch.tensor(region.active(*out.shape[2:]))
    assert torch.equal(out[..., ~active], recorded.passes[0].output[..., ~active].float())
    check(out, recorded.defined(region, (1.0,), exact_statistics), active)


@every_size
@every_case
@settings(max_examples=4)
@given(data=st.data())
def test_a_packed_pass_on_a_blend_is_the_dense_one_with_blended_positions(
    case: str, odd: bool, data: st.DataObject
) -> None:
    recorded = record(case, odd)
    region, exact_statistics = data.draw(regions(*recorded.case.image_size)), data.draw(st.sampled_from([True, False]))
    weights = data.draw(st.sampled_from(FORECASTS) | blends())
    out = recorded.packed(region, weights, exact_statistics)
    active = torch.tensor(region.active(*out.shape[2:]))
    check(out, recorded.defined(region, weights, exact_statistics), active)
