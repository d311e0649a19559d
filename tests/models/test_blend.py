"""Blends: weighted sums of recordings, read only where a packed pass reads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import sige
from sige import Recording, RecordingError, Region
from sige.ops import group_stats
from sige.packed.norm import blended_sums, updated_affine
from sige.recordings import Blend, BlendedComponent, ComponentRecording
from tests.models.devices import every_device
from tests.models.test_properties import RELATIVE_ERROR, active, relative_error
from tests.models.tiny import Case, every_case, make_case

Terms = list[tuple[Recording, float]]


def record(case: Case, handle: sige.Handle, x: Tensor) -> Recording:
    with handle.record() as recording:
        case.call(x)
    return recording


# ---- whole passes ---------------------------------------------------------------------------------------------------


@every_device
@every_case
def test_weights_that_split_one_recording_equal_that_recording(case: str) -> None:
    made = make_case(case)
    x, edited = made.input(1, 2), made.input(2, 2)
    region = made.rectangle(2, 3, 4, 4, dilation=1)
    with sige.enable(made.model) as handle:
        recording = record(made, handle, x)
        with handle.edit(region):
            alone = made.call(edited)
        for weights in ((0.25, 0.75), (-1.5, 2.5), (0.2, 0.3, 0.5)):
            with handle.edit(region, blend=[(recording, weight) for weight in weights]):
                assert relative_error(made.call(edited), alone) <= RELATIVE_ERROR


@pytest.mark.parametrize("case", ["sdxl-base", "sd15", "vae-decoder"])
def test_weights_that_split_one_recording_equal_it_through_sdpa(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """SDPA is the path of wide heads, and of fp32 on CUDA."""
    monkeypatch.setenv("SIGE_ATTENTION", "platform")
    test_weights_that_split_one_recording_equal_that_recording(case)


@every_device
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_weights_that_split_one_recording_equal_it_in_16_bits(dtype: torch.dtype) -> None:
    """Both terms are rounded and so is their sum, which adds about the error of one more layer."""
    made = make_case("sdxl-base", dtype)
    x, edited = made.input(1, 2), made.input(2, 2)
    region = made.rectangle(2, 3, 8, 8, dilation=1)
    with sige.enable(made.model) as handle:
        recording = record(made, handle, x)
        with handle.edit(region):
            alone = made.call(edited)
        with handle.edit(region, blend=[(recording, 0.25), (recording, 0.75)]):
            blended = made.call(edited)
    inside = active(region, alone)
    dense = relative_error(made.call(edited), make_case("sdxl-base", dtype, exact=True).call(edited.double()))
    assert relative_error(blended[..., inside], alone[..., inside]) <= 1.5 * dense


@every_device
@every_case
def test_outside_the_region_a_blend_is_the_weighted_sum_of_the_outputs(case: str) -> None:
    made = make_case(case)
    region = made.rectangle(2, 3, 4, 4, dilation=1)
    with sige.enable(made.model) as handle:
        blend: Terms = []
        expected = torch.zeros(())
        for seed, weight in ((1, 3.0), (2, -3.0), (3, 1.0)):  # the quadratic forecast
            with handle.record() as recording:
                expected = expected + weight * made.call(made.input(seed, 2))
            blend.append((recording, weight))
        with handle.edit(region, blend=blend):
            out = made.call(made.input(4, 2))
    outside = ~active(region, out)
    torch.testing.assert_close(out[..., outside], expected[..., outside], rtol=1e-5, atol=1e-5)


@every_device
@every_case
def test_everything_active_makes_the_blend_irrelevant(case: str) -> None:
    """New values replace every recorded value, also in the statistics, so the terms of a forecast cancel out."""
    made = make_case(case)
    edited = made.input(3)
    dense = made.call(edited)
    with sige.enable(made.model) as handle:
        first, second = (record(made, handle, made.input(seed)) for seed in (1, 2))
        with handle.edit(made.full(), blend=[(first, -1.0), (second, 2.0)]):
            assert relative_error(made.call(edited), dense) <= RELATIVE_ERROR


@every_device
@every_case
def test_a_blend_is_continuous_in_its_weights(case: str) -> None:
    """Weights that go from one recording to another give the recordings themselves at both ends."""
    made = make_case(case)
    edited = made.input(3)
    region = made.rectangle(2, 3, 4, 4, dilation=1)
    with sige.enable(made.model) as handle:
        first, second = (record(made, handle, made.input(seed)) for seed in (1, 2))

        def run(share: float) -> Tensor:
            with handle.edit(region, blend=[(first, 1.0 - share), (second, share)]):
                return made.call(edited)[..., inside]

        inside = torch.tensor(region.active(*second.components[made.component].output.shape[2:]))
        assert relative_error(run(1e-6), run(0.0)) < 1e-4
        assert relative_error(run(1.0 - 1e-6), run(1.0)) < 1e-4
        assert 0.01 < relative_error(run(0.5), run(0.0))


# ---- weights --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [(), (0.5,), (0.5, 0.6), (1.0, -1.0), (float("nan"),), (2.0, -1.001)], ids=str)
def test_weights_that_do_not_add_up_to_one_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(RecordingError, match="add up to .* expected 1"):
        Blend.of([(Recording(), weight) for weight in weights])


@pytest.mark.parametrize("what", ["one", "number", "bare", "triple", "name"])
def test_what_is_no_list_of_terms_is_refused(what: str) -> None:
    recording = Recording()
    given = {"one": recording, "number": 1.0, "bare": [recording], "triple": [(recording, 1.0, 2)], "name": [("x", 1)]}
    with pytest.raises(RecordingError, match=r"blend: got .*, expected .*\(recording, weight\)"):
        Blend.of(given[what])  # type: ignore[arg-type]


def test_weights_that_add_up_to_one_but_for_rounding_are_taken() -> None:
    weights = [0.1] * 10
    assert sum(weights) != 1.0
    assert len(Blend.of([(Recording(), weight) for weight in weights]).terms) == 10


@every_device
def test_a_recording_of_weight_zero_is_dropped() -> None:
    made = make_case("sdxl-base")
    x, edited = made.input(1), made.input(2)
    region = made.rectangle(2, 3, 8, 8)
    with sige.enable(made.model) as handle:
        recording = record(made, handle, x)
        with handle.edit(region):
            alone = made.call(edited)
        cleared = Recording()  # a read of it would raise an error
        with handle.edit(region, blend=[(cleared, 0.0), (recording, 1.0), (cleared, 0.0)]):
            assert torch.equal(made.call(edited), alone)


def test_every_recording_of_a_blend_must_fit() -> None:
    made = make_case("sdxl-base")
    with sige.enable(made.model) as handle:
        recordings = [record(made, handle, made.input(1, batch)) for batch in (1, 2)]
        with handle.edit(made.full(), blend=[(recording, 0.5) for recording in recordings]):
            for batch in (1, 2):
                with pytest.raises(RecordingError, match=r"unet got .* expected what was recorded"):
                    made.call(made.input(2, batch))


# ---- what is read ---------------------------------------------------------------------------------------------------


def parts() -> tuple[list[ComponentRecording], BlendedComponent]:
    """Two recordings of 12 rows of 8 channels in 4 groups, and their blend with the weights 1.5 and -0.5."""
    generator = torch.Generator().manual_seed(3)
    rows = [torch.randn(2, 12, 8, generator=generator) for _ in range(2)]
    made = [ComponentRecording({"layer": value}, {"layer": group_stats(value, 4)}) for value in rows]
    return made, BlendedComponent("unet", ((made[0], 1.5), (made[1], -0.5)))


def test_blended_rows_are_the_weighted_sum() -> None:
    (first, second), blend = parts()
    index = torch.tensor([7, 0, 3], dtype=torch.int32)
    expected = 1.5 * first.rows["layer"] - 0.5 * second.rows["layer"]
    torch.testing.assert_close(blend.rows("layer"), expected)
    torch.testing.assert_close(blend.rows("layer", index), expected[:, index.long()])
    assert blend.rows("layer", index[:0]).shape == (2, 0, 8)


def test_more_terms_than_the_ops_take_are_summed_all_the_same() -> None:
    (first, second), few = parts()
    many = BlendedComponent("unet", ((first, 0.25),) * 6 + ((second, -0.25),) * 2 + ((second, 0.0),) * 3)
    index, packed = torch.tensor([7, 0, 3], dtype=torch.int32), torch.randn(2, 3, 8)
    torch.testing.assert_close(many.rows("layer"), few.rows("layer"))
    torch.testing.assert_close(many.rows("layer", index), few.rows("layer", index))
    norm = torch.nn.GroupNorm(4, 8)
    with torch.no_grad():
        got, expected = (updated_affine(blend, "layer", norm, index, packed) for blend in (many, few))
    torch.testing.assert_close(got, expected)


def test_a_blend_of_rows_and_its_norm_are_one_op_each() -> None:
    """Every call of an op is a launch on a GPU, so a pass must make few."""
    _, blend = parts()
    index, packed, norm = torch.tensor([7, 0, 3], dtype=torch.int32), torch.randn(2, 3, 8), torch.nn.GroupNorm(4, 8)
    assert blend.factors.tolist() == blend.weights  # made once a pass, before the first op that reads them
    with torch.no_grad(), Calls() as calls:
        blend.rows("layer", index)
        updated_affine(blend, "layer", norm, index, packed)
    assert calls.names == ["sige::blend_rows", "sige::norm_affine"]


def moments(stats: Tensor, rows: int) -> tuple[Tensor, Tensor]:  # fp64 [B, G, 2] -> [B, G] each
    """Mean and variance of groups of two channels."""
    mean, square = (stats / (2 * rows)).unbind(2)
    return mean, square - mean.square()


@pytest.mark.parametrize("updated", [False, True], ids=["frozen", "exact"])
def test_blended_statistics_are_weighted_means_and_geometric_variances(updated: bool) -> None:
    both, blend = parts()
    rows, got = [part.rows["layer"] for part in both], blended_sums(blend, "layer")
    if updated:
        packed, index = torch.randn(2, 3, 8), torch.tensor([7, 0, 3], dtype=torch.int32)
        rows = [value.index_copy(1, index.long(), packed) for value in rows]
        got = blended_sums(blend, "layer", index, packed)
    (mean, variance), (one, another) = moments(got, 12), (moments(group_stats(value, 4), 12) for value in rows)
    torch.testing.assert_close(mean, 1.5 * one[0] - 0.5 * another[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(variance, one[1] ** 1.5 / another[1] ** 0.5, rtol=1e-5, atol=1e-6)


def test_a_forecast_never_leaves_a_negative_variance() -> None:
    """The spread goes from wide to narrow, so extrapolated sums of squares would give a variance below zero."""
    rows = [scale * torch.randn(1, 12, 8) for scale in (3.0, 1.0)]
    made = [ComponentRecording({"layer": value}, {"layer": group_stats(value, 4)}) for value in rows]
    sums = 2 * made[1].stats["layer"] - made[0].stats["layer"]
    assert (moments(sums, 12)[1] < 0).any()
    blend = BlendedComponent("unet", ((made[1], 2.0), (made[0], -1.0)))
    assert (moments(blended_sums(blend, "layer"), 12)[1] > 0).all()


class Arithmetic(TorchDispatchMode):
    """Keeps the number of elements in the largest result of a product or a sum inside the block."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if any(kind in func.name() for kind in ("mul", "add", "lerp", "sum", "matmul", "einsum", "blend")):
            self.elements = max(self.elements, out.numel())
        return out


class Calls(TorchDispatchMode):
    """Keeps the names of the ops that are called inside the block."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func._schema.name)
        return func(*args, **(kwargs or {}))


@every_case
def test_only_the_rows_that_are_read_are_blended(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass blends the halo of each convolution's input and the keys and values of each level, each only once."""
    made = make_case(case)
    mask = torch.zeros(made.image_size)
    mask[-9:, -9:] = 1
    region = Region.from_mask(mask, dilation=0)
    read: dict[str, int] = {}
    rows_of = BlendedComponent.rows

    def spy(self: BlendedComponent, key: str, index: Tensor | None = None) -> Tensor:
        assert key not in read, f"{key} is blended twice in a pass"
        with Arithmetic() as arithmetic:
            rows = rows_of(self, key, index)
        read[key] = arithmetic.elements // (rows.shape[0] * rows.shape[2])
        assert read[key] == rows.shape[1], "rows were summed that nobody asked for"
        return rows

    monkeypatch.setattr(BlendedComponent, "rows", spy)
    with sige.enable(made.model) as handle:
        first, second = (record(made, handle, made.input(seed)) for seed in (1, 2))
        with handle.edit(region, blend=[(first, 0.5), (second, 0.5)]):
            made.call(made.input(3))
    recorded = first.components[made.component].rows
    convolutions = {key: count for key, count in read.items() if not key.endswith((".key", ".value"))}
    assert len(convolutions) > 10
    for key, count in convolutions.items():
        positions = recorded[key].shape[1]
        side = int(positions**0.5)
        corner = -(-9 * side // made.image_size[0])  # the active positions are corner x corner
        # Two rows and columns around them at most, with strides and upsampling; one where the size stays.
        assert count <= min((corner + 2) ** 2, positions) - corner**2, f"{key}: {count} of {positions} rows"
    assert 0 < sum(convolutions.values()) < 0.3 * sum(recorded[key].shape[1] for key in convolutions)


@every_device
def test_keys_and_values_are_blended_at_inactive_positions_only(monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_case("sdxl-base")
    region = made.rectangle(0, 0, 16, 8)
    read: dict[str, int] = {}
    rows_of = BlendedComponent.rows

    def spy(self: BlendedComponent, key: str, index: Tensor | None = None) -> Tensor:
        rows = rows_of(self, key, index)
        read[key] = rows.shape[1]
        return rows

    monkeypatch.setattr(BlendedComponent, "rows", spy)
    with sige.enable(made.model) as handle:
        first, second = (record(made, handle, made.input(seed)) for seed in (1, 2))
        with handle.edit(region, blend=[(first, 0.5), (second, 0.5)]):
            made.call(made.input(3))
    keys = [key for key in read if key.endswith(".key")]
    assert keys
    for key in keys:
        assert read[key] == first.components["unet"].rows[key].shape[1] // 2
