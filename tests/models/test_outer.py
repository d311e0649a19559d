"""Dense passes that leave out the UNet's deepest level, whose output is a forecast."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

import sige
from sige import Recording, Temporal
from sige.errors import ConfigError, UnsupportedError
from sige.passes import Call, Passes, record_outer, record_pass
from sige.recordings import Blend
from tests.models.job import STEPS, Job
from tests.models.test_properties import RELATIVE_ERROR, relative_error
from tests.models.tiny import UNETS, make_case

every_unet = pytest.mark.parametrize("case", list(UNETS))
OUTER = Temporal(dense_steps=(0, 1, 2, 4, 6), skipped_steps=(), half_steps=(), outer_steps=(4, 6))


def record(case: Any, x: Any, how: Any) -> tuple[Any, Recording]:
    """The output of one pass, and its recording, made by a function of the call and the recording."""
    recording = Recording()
    component = sige.enable(case.model).components["unet"]
    with pytest.MonkeyPatch.context() as patch:
        forward, plain = case.model.forward.forward, case.model.forward.original

        def taken(*args: Any, **kwargs: Any) -> Any:
            bound = inspect.signature(plain).bind(*args, **kwargs)
            bound.apply_defaults()
            return how(Call(component, forward, args, kwargs, bound.arguments), recording)

        patch.setattr(case.model, "forward", taken)
        output = case.call(x)
    return output, recording


@every_unet
@pytest.mark.parametrize("size", [(16, 16), (13, 18)], ids=str)
def test_with_its_own_recording_as_the_forecast_it_is_the_dense_pass(case: str, size: tuple[int, int]) -> None:
    """The definition: what is left out comes out as it was recorded, so nothing else changes either."""
    one = make_case(case)
    x = one.input(1, 2, size)
    handle = sige.enable(one.model)
    try:
        dense, whole = record(one, x, record_pass)
        forecast = Blend.of([(whole, 1.0)])
        found, recording = record(one, x, lambda call, into: record_outer(call, into, forecast))
    finally:
        handle.disable()
    assert relative_error(found, dense) <= RELATIVE_ERROR
    before, after = whole.components["unet"], recording.components["unet"]
    assert after.rows.keys() == before.rows.keys() and after.stats.keys() == before.stats.keys()
    for key, rows in after.rows.items():
        assert relative_error(rows, before.rows[key]) <= RELATIVE_ERROR
    for key, sums in after.stats.items():
        assert relative_error(sums, before.stats[key]) <= 1e-5


@every_unet
def test_no_layer_of_the_deepest_level_runs_and_every_other_does(case: str) -> None:
    one = make_case(case)
    ran: set[str] = set()
    handle = sige.enable(one.model)
    try:
        _, whole = record(one, one.input(1), record_pass)
        hooks = [
            module.register_forward_hook(lambda *_, name=name: ran.add(name))
            for name, module in one.model.named_modules()
            if not list(module.children())
        ]
        record(one, one.input(2), lambda call, into: record_outer(call, into, Blend.of([(whole, 1.0)])))
    finally:
        for hook in hooks:
            hook.remove()
        handle.disable()
    deepest = (f"down_blocks.{len(one.model.down_blocks) - 1}.", "mid_block.", "up_blocks.0.")
    assert not [name for name in ran if name.startswith(deepest)]
    assert {"conv_in", "conv_out", "down_blocks.0.resnets.0.conv1", "up_blocks.1.resnets.0.conv2"} <= ran
    assert "forward" not in vars(one.model.mid_block)


def test_an_edit_runs_them_where_the_plan_says() -> None:
    job = Job("XLInpaint")
    with sige.enable(job.pipe) as handle:
        with handle.edit(job.mask, OUTER):
            outer = job()
        assert handle.passes == Passes(dense=3, packed=3, outer=2)
        assert handle.totals["unet"] == handle.passes
        with handle.edit(job.mask, Temporal(dense_steps=(0, 1, 2, 4, 6), skipped_steps=())):
            dense = job()
        assert handle.passes == Passes(dense=5, packed=3)
    assert outer.isfinite().all() and not torch.equal(outer, dense)
    assert OUTER.plan(STEPS, 0.1).codes == "DDDpOpOp"
    assert "outer levels dense, the deepest from -2 x 1, 3 x 2" in OUTER.plan(STEPS, 0.1).describe()


def test_with_a_controlnet_such_a_step_runs_dense() -> None:
    case = make_case("sdxl-base")
    residuals = torch.zeros(1)
    with sige.enable(case.model) as handle:
        component = handle.components["unet"]
        assert component.has_outer({"down_block_additional_residuals": None})
        assert not component.has_outer({"down_block_additional_residuals": (residuals,)})


def test_the_vae_has_no_such_pass() -> None:
    case = make_case("vae-decoder")
    with sige.enable(case.model) as handle:
        component = handle.components["vae.decoder"]
        assert not component.has_outer({})
        with pytest.raises(UnsupportedError, match=r"only a denoiser can leave out"):
            component.without_deepest(Blend.of([(Recording(), 1.0)]), case.input(1))  # type: ignore[arg-type]


def test_steps_that_cannot_leave_it_out_are_refused() -> None:
    for steps, message in (((0,), "outer_steps: got 0"), ((3,), "outer_steps: got 3")):
        with pytest.raises(ConfigError, match=message):
            Temporal(dense_steps=(0, 1, 4), outer_steps=steps).plan(STEPS, 0.1)
    assert Temporal("fastest").plan(30, 0.1).codes == "HDppHspsDsspsOsspsOsspssOsspss"
