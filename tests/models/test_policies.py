"""Policies on whole, stock pipelines: the passes that they run, the recordings these read, and the state afterwards."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import sige
from sige import ConfigError, Lockstep, Recording, RecordingError, Region, Temporal
from sige.passes import Call
from sige.policies.runner import Runner
from tests.models.job import SCHEDULERS, SIDE, STEPS, Job
from tests.models.tiny import sdxl_base, vae

KINDS = ("XLInpaint", "XLImg2Img", "Inpaint", "Img2Img")


@pytest.mark.parametrize(
    ("kind", "scheduler"),
    # Those whose steps are not one call each; all others run in the next test and in test_lockstep.
    [
        *((kind, "DDIMScheduler") for kind in KINDS),
        ("Img2Img", "PNDMScheduler"),
        ("XLInpaint", "HeunDiscreteScheduler"),
    ],
)
def test_all_steps_dense_equals_the_dense_pipeline_bit_for_bit(kind: str, scheduler: str) -> None:
    job = Job(kind, scheduler)
    with sige.enable(job.pipe) as handle:
        dense = job()
        with handle.edit(job.mask, Temporal(dense_steps=1000)):
            assert torch.equal(job(), dense)
        assert handle.passes.packed == 0 and handle.passes.dense >= STEPS * 0.7


@pytest.mark.parametrize("kind", KINDS)
def test_an_enabled_pipeline_is_the_plain_pipeline_and_comes_back_bit_for_bit(kind: str) -> None:
    job = Job(kind)
    plain = job()
    with sige.enable(job.pipe):
        assert (job() - plain).norm() <= 1e-4 * plain.norm()  # convolutions in another memory format
    assert torch.equal(job(), plain)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_temporal_runs_dense_where_the_schedule_says_and_packed_elsewhere(scheduler: str) -> None:
    job = Job("XLInpaint", scheduler)
    with sige.enable(job.pipe) as handle, handle.edit(job.mask, Temporal(dense_steps=(0, 2, 5))):
        out = job()
    assert handle.passes.dense == 3
    assert handle.passes.packed == job.pipe.num_timesteps - 3
    assert torch.isfinite(out).all()


def test_a_budget_is_kept_with_fewer_steps_than_were_asked_for() -> None:
    job = Job("XLImg2Img")
    with sige.enable(job.pipe) as handle, handle.edit(job.mask, Temporal(dense_steps=3)):
        job(num_inference_steps=10, strength=0.5)
    assert (handle.passes.dense, handle.passes.packed) == (3, 2)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_few_steps_degrade_to_what_makes_sense(steps: int) -> None:
    """Turbo's calls have few steps: the first two run dense, the others packed."""
    job = Job("XLInpaint", "EulerAncestralDiscreteScheduler")
    with sige.enable(job.pipe) as handle, handle.edit(job.mask):
        out = job(num_inference_steps=steps, guidance_scale=0.0)
    assert (handle.passes.dense, handle.passes.packed) == (min(steps, 2), max(steps - 2, 0))
    assert torch.isfinite(out).all()


def error(job: Job, policy: Temporal, dense: Tensor) -> float:
    with sige.enable(job.pipe) as handle, handle.edit(job.mask, policy):
        out = job()
    return ((out - dense).norm() / dense.norm()).item()


def test_more_dense_steps_bring_the_result_closer_to_dense() -> None:
    job = Job("XLInpaint")
    dense = job()
    errors = [error(job, Temporal(dense_steps=steps, forecast="linear"), dense) for steps in (1, 4, 8)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-4


def test_everything_active_runs_dense() -> None:
    job = Job("XLInpaint")
    with sige.enable(job.pipe) as handle:
        dense = job()
        with handle.edit(np.ones((SIDE, SIDE))):
            assert torch.equal(job(), dense)
        assert handle.passes.packed == 0


def test_nothing_active_keeps_the_forecast() -> None:
    job = Job("XLImg2Img")
    with sige.enable(job.pipe) as handle, handle.edit(Region.empty(SIDE, SIDE)):
        assert torch.isfinite(job()).all()
    assert handle.passes.packed > 0


ORIGINAL = torch.zeros(1, 4, 8, 8)


@pytest.mark.parametrize(
    ("policy", "by"),
    [
        (Temporal(), 0),
        (Lockstep(original=ORIGINAL), 1),
        (Temporal(dilation=2), 2),
        (Lockstep(original=ORIGINAL, dilation=0), 0),
    ],
    ids=str,
)
def test_a_mask_grows_as_far_as_the_policy_says(policy: sige.Policy, by: int, monkeypatch: pytest.MonkeyPatch) -> None:
    job, grown = Job("XLInpaint"), []
    from_mask = Region.from_mask
    monkeypatch.setattr(
        Region, "from_mask", lambda mask, *, dilation: grown.append(dilation) or from_mask(mask, dilation=dilation)
    )
    with sige.enable(job.pipe) as handle, handle.edit(job.mask, policy):
        pass
    assert grown == [by]


def spy_on_packed(monkeypatch: pytest.MonkeyPatch) -> list[list[float]]:
    """The list in which every packed pass puts the weights of its blend."""
    from sige.passes import Packing

    seen: list[list[float]] = []
    packed = Packing.packed

    def spy(self: Any, call: Call, blend: Any, patch: Any = None) -> Any:
        seen.append([round(weight, 6) for _, weight in blend.terms])
        return packed(self, call, blend, patch)

    monkeypatch.setattr(Packing, "packed", spy)
    return seen


WEIGHTS = {  # of the packed steps 3, 5 and 7, after the dense 1 2, 1 2 4 and 1 2 4 6
    "none": [[1.0], [1.0], [1.0]],
    "linear": [[-1.0, 2.0], [-0.5, 1.5], [-0.5, 1.5]],
    "quadratic": [[-1.0, 2.0], [1.0, -2.0, 2.0], [0.375, -1.25, 1.875]],
    "rising": [[-1.0, 2.0], [-0.5, 1.5], [0.375, -1.25, 1.875]],
}


@pytest.mark.parametrize("forecast", WEIGHTS)
def test_forecasts_read_the_recordings_with_their_weights(forecast: str, monkeypatch: pytest.MonkeyPatch) -> None:
    job, seen = Job("XLInpaint"), spy_on_packed(monkeypatch)
    with sige.enable(job.pipe) as handle:
        with handle.edit(job.mask, Temporal(dense_steps=(0, 1, 2, 4, 6), forecast=forecast)):
            job(num_inference_steps=8)
    assert seen == WEIGHTS[forecast]


def test_a_recording_that_nothing_reads_any_more_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job("XLInpaint")
    alive: list[int] = []
    run = Runner.__call__

    def spy(self: Any, call: Call) -> Any:
        result = run(self, call)
        alive.append(len(self._recordings))
        return result

    monkeypatch.setattr(Runner, "__call__", spy)
    with sige.enable(job.pipe) as handle, handle.edit(job.mask, Temporal(dense_steps=(0, 1, 2, 4, 7))):
        job()
    assert alive == [0, 1, 2, 1, 2, 2, 0, 0]  # 3 reads 1 2; 5 and 6 read 2 4; no step reads the first and the last


# ---- one call after another, and calls that end early ----------------------------------------------------------------


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "HeunDiscreteScheduler", "PNDMScheduler"])
def test_each_call_of_the_pipeline_begins_anew(scheduler: str) -> None:
    job = Job("XLInpaint", scheduler)
    with sige.enable(job.pipe) as handle, handle.edit(job.mask):
        first = job()
        assert torch.equal(job(), first)
        job(num_inference_steps=5)
        assert torch.equal(job(), first)


class StopError(Exception):
    """Raised in the middle of a call."""


def stop_at(step: int, error: type[BaseException]) -> Callable[..., dict[str, Any]]:
    def callback(pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if index == step:
            raise error
        return values

    return callback


@pytest.mark.parametrize("kind", [StopError, KeyboardInterrupt])
def test_a_call_that_ended_early_does_not_show_in_the_next(kind: type[BaseException]) -> None:
    job = Job("XLInpaint")
    with sige.enable(job.pipe) as handle, handle.edit(job.mask):
        first = job()
        for step in (0, 3):
            with pytest.raises(kind):
                job(callback_on_step_end=stop_at(step, kind))
            assert torch.equal(job(), first)


def test_a_call_that_ended_early_does_not_show_in_one_that_begins_with_less_noise() -> None:
    """Its first timestep is below the last one of the stopped call, so it looks like the next step of that call."""
    job = Job("XLImg2Img")
    with sige.enable(job.pipe) as handle, handle.edit(job.mask):
        first = job(strength=0.5)
        for step in (0, 1):
            with pytest.raises(StopError):
                job(strength=1.0, callback_on_step_end=stop_at(step, StopError))
            assert torch.equal(job(strength=0.5), first)


def test_an_interrupted_pipeline_begins_anew() -> None:
    """`pipe._interrupt` skips the remaining steps."""
    job = Job("XLInpaint")

    def interrupt(pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = index >= 2
        return values

    with sige.enable(job.pipe) as handle, handle.edit(job.mask):
        first = job()
        job(callback_on_step_end=interrupt)
        assert torch.equal(job(), first)


def recordings_alive() -> int:
    gc.collect()
    return sum(isinstance(thing, Recording) and bool(thing.components) for thing in gc.get_objects())


def test_leaving_the_edit_frees_every_recording() -> None:
    job = Job("XLInpaint")
    before = recordings_alive()
    with sige.enable(job.pipe) as handle:
        with pytest.raises(StopError), handle.edit(job.mask):
            job(callback_on_step_end=stop_at(4, StopError))
        assert recordings_alive() == before


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("no"), RuntimeError("DefaultCPUAllocator: can't allocate")], ids=str
)
def test_out_of_memory_frees_the_recordings_and_leaves_the_handle_of_use(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sige.passes import Packing

    job, before = Job("XLInpaint"), recordings_alive()
    with sige.enable(job.pipe) as handle, handle.edit(job.mask):
        first = job()
        with monkeypatch.context() as patch:

            def fail(*_: Any) -> Any:
                raise error

            patch.setattr(Packing, "packed", fail)
            with pytest.raises(type(error)):
                job()
            assert recordings_alive() == before
        assert torch.equal(job(), first)


def test_the_same_seed_gives_the_same_bits() -> None:
    outs = []
    for _ in range(2):
        job = Job("XLInpaint")
        with sige.enable(job.pipe) as handle, handle.edit(job.mask):
            outs.append(job())
    assert torch.equal(*outs)


# ---- the handle ------------------------------------------------------------------------------------------------------


def test_a_policy_needs_a_pipeline() -> None:
    for target in (sdxl_base(), vae()):
        with sige.enable(target) as handle, pytest.raises(ConfigError, match="follows the steps of a pipeline"):
            with handle.edit(np.ones((SIDE, SIDE)), Temporal()):
                pass
        assert sige.handle_of(target) is None


def test_each_edit_has_the_policy_that_it_is_given() -> None:
    """Two requests one after the other need no second enable, and the first does not change the second."""
    job = Job("XLInpaint")
    with sige.enable(job.pipe) as handle:
        assert sige.enable(job.pipe) is handle is sige.handle_of(job.pipe)
        for policy, dense in ((Temporal(dense_steps=2), 2), (Temporal(dense_steps=4), 4), (None, 3)):
            with handle.edit(job.mask, policy):
                job()
            assert handle.passes.dense == dense
        with handle.edit(job.mask, Lockstep(original=job.latents())):
            job()
        assert handle.passes.dense == handle.passes.packed == STEPS
        with handle.edit(job.mask):
            first = job()
    with sige.enable(job.pipe) as handle, handle.edit(job.mask):
        assert torch.equal(job(), first)


@pytest.mark.parametrize("extra", [{"blend": [(Recording(), 1.0)]}, {"exact_statistics": False}], ids=str)
def test_what_a_policy_would_not_read_is_refused(extra: dict[str, Any]) -> None:
    job = Job("XLInpaint")
    with sige.enable(job.pipe) as handle:
        with pytest.raises(ConfigError, match=rf"^{next(iter(extra))}: a policy brings its own"):
            with handle.edit(job.mask, Temporal(), **extra):
                pass
        with pytest.raises(ConfigError, match=r"^dilation: a Region is dilated already"):
            with handle.edit(Region.from_mask(job.mask), Temporal(dilation=1)):
                pass
        with pytest.raises(ConfigError, match=r"^policy: got 'temporal', expected sige.Temporal"):
            with handle.edit(job.mask, "temporal"):
                pass


def test_recordings_made_by_hand_can_still_be_read() -> None:
    job = Job("XLInpaint")
    with sige.enable(job.pipe) as handle:
        with handle.record() as recording:
            job()
        with handle.edit(Region.from_mask(job.mask), blend=[(recording, 1.0)]):
            job()
        assert handle.passes.packed == handle.passes.dense == 0


def test_another_thread_is_told_that_the_model_is_taken() -> None:
    job = Job("XLInpaint")
    errors: list[Exception] = []

    def other(handle: sige.Handle) -> None:
        for attempt in (lambda: job.unet(torch.zeros(1, 4, 16, 16), 1, None), lambda: handle.record().__enter__()):
            try:
                attempt()
            except RecordingError as error:
                errors.append(error)

    with sige.enable(job.pipe) as handle:
        with handle.edit(job.mask):
            first = job()
            thread = threading.Thread(target=other, args=(handle,))
            thread.start()
            thread.join()
            assert torch.equal(job(), first)
    assert ["another thread" in str(error) for error in errors] == [True, True]
