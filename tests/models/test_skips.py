"""Skipped and half steps on whole, stock pipelines: what they answer, what runs, and where they give way."""

from __future__ import annotations

import doctest
import logging
from typing import Any

import pytest
import torch
from torch import Tensor

import sige
from sige import Recording, Temporal
from sige.ops import group_stats
from sige.passes import Call
from sige.policies.plan import NONE, Step
from sige.policies.runner import Runner
from sige.recordings import half_of, joined, mixed
from tests.models.job import SCHEDULERS, Job
from tests.models.test_properties import relative_error

STEPS = 8
DENSE = (0, 1, 2, 3, 5, 6)  # with the steps 4 and 7 skipped, no step runs packed
NOISY = ("EulerAncestralDiscreteScheduler", "LCMScheduler")


def skipping(**changes: Any) -> Temporal:
    return Temporal(**{"dense_steps": DENSE, "skipped_steps": (4, 7), **changes})


# ---- skipped steps ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
@pytest.mark.parametrize("kind", ["XLInpaint", "Img2Img"])
def test_a_skipped_step_continues_the_outputs_of_two_before_it(kind: str, scheduler: str) -> None:
    """The definition: the pipeline with a UNet that answers two of its calls with 2 a - b, a and b being the last."""
    job = Job(kind, scheduler)
    job.strength = 1.0
    with sige.enable(job.pipe) as handle, handle.edit(job.mask, skipping()):
        out = job()
    assert handle.passes == sige.passes.Passes(dense=6, skipped=2)
    plain, outputs = job.unet.forward, []

    def forward(*args: Any, **kwargs: Any) -> tuple[Tensor]:
        skipped = len(outputs) in (4, 7)
        outputs.append(2 * outputs[-1] - outputs[-2] if skipped else plain(*args, **kwargs)[0])
        return (outputs[-1],)

    job.unet.forward = forward
    assert relative_error(out, job()) < 1e-4  # errors grow from step to step


def test_a_skipped_step_calls_no_layer_and_reads_no_recording() -> None:
    job = Job("XLInpaint")
    calls: list[int] = []
    plain = job.unet.time_embedding.forward  # runs in dense passes and in packed ones
    with sige.enable(job.pipe) as handle, handle.edit(job.mask, Temporal(dense_steps=(0, 1), skipped_steps=(3, 5))):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(job.unet.time_embedding, "forward", lambda *args: calls.append(1) or plain(*args))
            job()
    assert len(calls) == STEPS - 2 == handle.passes.dense + handle.passes.packed
    assert handle.passes.skipped == 2


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_only_schedulers_with_smooth_outputs_skip(scheduler: str, caplog: pytest.LogCaptureFixture) -> None:
    job = Job("XLInpaint", scheduler)
    policy = Temporal(dense_steps=(0, 1, 4), skipped_steps=(3, 6))
    with caplog.at_level(logging.WARNING), sige.enable(job.pipe) as handle, handle.edit(job.mask, policy):
        job(), job()
    assert handle.passes.skipped == (0 if scheduler in NOISY else 2)
    assert handle.passes.calls == job.pipe.num_timesteps
    said = [line.getMessage() for line in caplog.records if "no step is skipped" in line.getMessage()]
    assert len(said) == (scheduler in NOISY) and all(line.startswith(scheduler) for line in said)


def test_noise_at_each_step_keeps_ddim_from_skipping(caplog: pytest.LogCaptureFixture) -> None:
    job = Job("XLInpaint")
    with sige.enable(job.pipe) as handle, handle.edit(job.mask, skipping()):
        job(eta=0.5)
    assert handle.passes == sige.passes.Passes(dense=6, packed=2) and "eta 0.5" in caplog.text


def test_outputs_are_kept_only_while_a_later_step_continues_them(monkeypatch: pytest.MonkeyPatch) -> None:
    job, kept, runners = Job("XLInpaint"), [], set()
    plain = Runner._run

    def spy(self: Runner, call: Call) -> Any:
        result = plain(self, call)
        runners.add(self)
        kept.append(sorted(self._outputs))
        return result

    monkeypatch.setattr(Runner, "_run", spy)
    with sige.enable(job.pipe) as handle, handle.edit(job.mask, skipping()):
        job()
        assert kept == [[], [], [2], [2, 3], [], [5], [5, 6], []]
        with pytest.raises(ZeroDivisionError):
            job(callback_on_step_end=lambda *_: 1 / 0 if len(kept) == 12 else {})
        (runner,) = runners
        assert runner._outputs
    assert not runner._outputs and not runner._recordings


def test_what_came_before_a_change_is_not_continued() -> None:
    """New weights after step 2: step 3 runs dense at once, and step 4 has one output to go by, so it is computed."""
    job = Job("XLInpaint")

    def change(_: Any, step: int, *__: Any) -> dict[str, Any]:
        if step == 2:
            with torch.no_grad():
                job.unet.conv_out.bias.add_(0.1)
        return {}

    policy = Temporal(dense_steps=(0, 1), skipped_steps=(4, 5))
    with sige.enable(job.pipe) as handle, handle.edit(job.mask, policy):
        job(callback_on_step_end=change)
    assert handle.passes == sige.passes.Passes(dense=3, packed=4, skipped=1)


# ---- half steps ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["XLInpaint", "Inpaint"])
def test_with_the_same_prompt_in_both_halves_a_half_step_is_a_dense_one(kind: str) -> None:
    """Then the half without the prompt reads what the other one left just now, at every position."""
    job = Job(kind)
    for name in ("prompt_embeds", "pooled_prompt_embeds"):
        if name in job.options:
            job.options[f"negative_{name}"] = job.options[name]
    results = []
    with sige.enable(job.pipe) as handle:
        for half in ((), (0, 3), (0, 1, 3)):
            with handle.edit(job.mask, Temporal(dense_steps=(0, 1, 3, 6), half_steps=half)):
                results.append(job())
            assert handle.passes == sige.passes.Passes(dense=4 - len(half), half=len(half), packed=4)
    for result in results[1:]:
        assert relative_error(result, results[0]) < 1e-4  # errors grow from step to step


def test_a_half_step_is_dense_for_the_prompt_and_packed_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """The definition, step by step by hand, on the calls that a pipeline makes."""
    job, seen = Job("XLInpaint"), []
    plain = Runner._answer

    def spy(self: Runner, step: Step, index: int, call: Call) -> Any:
        result = plain(self, step, index, call)
        seen.append((call.arguments | {"sample": call.sample.clone()}, result[0].clone()))
        return result

    monkeypatch.setattr(Runner, "_answer", spy)
    with sige.enable(job.pipe) as handle:
        with handle.edit(job.mask, Temporal(dense_steps=(0, 2), half_steps=(2,))):
            job()
        handle.disable()

    region = sige.Region.from_mask(job.mask, dilation=0)
    (old_call, _), (new_call, answer) = seen[0], seen[2]
    with sige.enable(job.unet) as handle, torch.no_grad():
        recordings = []
        for call, second in ((old_call, False), (old_call, True), (new_call, True)):
            with handle.record() as recording:
                result = job.unet(**half(call, second))[0]
            recordings.append(recording)
        assert relative_error(answer[1:], result) < 1e-6
        old, old_prompt, new_prompt = recordings
        forecast = mixed([(old, 1.0), (new_prompt, 1.0), (old_prompt, -1.0)], "unet")
        with handle.edit(region, blend=[(Recording({"unet": forecast}), 1.0)]):
            without = job.unet(**half(new_call, second=False))[0]
    assert relative_error(answer[:1], without) < 1e-5


def half(arguments: dict[str, Any], second: bool) -> dict[str, Any]:
    """The arguments of one half of the batch."""
    return {
        name: half(value, second)
        if isinstance(value, dict)
        else value[int(second) :][:1]
        if isinstance(value, Tensor) and value.dim() and len(value) == 2
        else value
        for name, value in arguments.items()
    }


def test_without_guidance_there_are_no_halves() -> None:
    job = Job("XLInpaint")
    with sige.enable(job.pipe) as handle, handle.edit(job.mask, Temporal(dense_steps=(0, 2), half_steps=(2,))):
        job(guidance_scale=1.0)
    assert handle.passes == sige.passes.Passes(dense=2, packed=6)


def test_halves_of_several_pictures_are_those_of_each() -> None:
    """A batch of two equal pictures gives twice the result of one."""
    job = Job("XLInpaint")
    policy = Temporal(dense_steps=(0, 2, 5), half_steps=(0, 5), skipped_steps=(7,))
    noise = torch.randn(1, 4, 16, 16)
    with sige.enable(job.pipe) as handle, handle.edit(job.mask, policy):
        one = job(latents=noise)
        two = job(latents=noise.repeat(2, 1, 1, 1), num_images_per_prompt=2)
    assert relative_error(two, one.repeat(2, 1, 1, 1)) < 1e-4


# ---- mixed recordings ------------------------------------------------------------------------------------------------


def recordings(count: int) -> tuple[Job, list[Recording]]:
    job, made = Job("XLInpaint"), []
    with sige.enable(job.pipe) as handle:
        for _ in range(count):
            with handle.record() as recording:
                job(num_inference_steps=1)
            made.append(recording)
            with torch.no_grad():
                job.unet.conv_in.weight.mul_(1.1)
    return job, made


def test_two_halves_side_by_side_are_the_recording() -> None:
    _, (recording,) = recordings(1)
    part = recording.components["unet"]
    first, second = (half_of(recording, "unet", second).components["unet"] for second in (False, True))
    rows, stats = dict(first.rows), dict(first.stats)
    whole = joined(first, second, "unet")
    assert rows.keys() == whole.rows.keys() and stats.keys() == whole.stats.keys()
    assert whole.nbytes == part.nbytes and whole.input.shape == part.input.shape
    assert torch.equal(whole.output, part.output)
    for kept, made in ((part.rows, whole.rows), (part.stats, whole.stats)):
        assert kept.keys() == made.keys() and all(torch.equal(made[key], kept[key]) for key in kept)


def test_a_mixed_recording_is_the_weighted_sum_with_sums_of_its_own() -> None:
    _, (one, two) = recordings(2)
    made = mixed([(one, 1.25), (two, -0.25)], "unet")
    a, b = one.components["unet"], two.components["unet"]
    torch.testing.assert_close(made.output, 1.25 * a.output - 0.25 * b.output)
    assert a.rows.keys() == made.rows.keys() and a.stats.keys() == made.stats.keys()
    for key in a.rows:
        torch.testing.assert_close(made.rows[key], 1.25 * a.rows[key] - 0.25 * b.rows[key], rtol=1e-4, atol=1e-5)
    for key, sums in a.stats.items():
        assert torch.equal(made.stats[key], group_stats(made.rows[key], sums.shape[1]))


def test_the_example_of_passes() -> None:
    found = doctest.testmod(sige.passes)
    assert found.attempted and not found.failed


def test_a_plan_says_when_a_step_is_skipped() -> None:
    plan = skipping().plan(STEPS, active=0.1)
    assert [index for index, step in enumerate(plan) if step.positions == NONE] == [4, 7]
    assert plan.codes == "DDDDsDDs" and plan.work(packed=0.1) == 6
