"""Lockstep on whole, stock pipelines: its recordings, their noise levels, and the calls that it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import sige
from sige import ConfigError, Lockstep, Recording
from sige.passes import Call
from sige.policies import runner
from tests.models.job import SCHEDULERS, Job
from tests.models.tiny import sd15, sdxl_inpainting


def spy_on_recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, float]]:
    seen: list[tuple[Tensor, float]] = []
    record = runner.record_pass

    def spy(call: Call, recording: Recording) -> Any:
        seen.append((call.sample.clone(), float(call.arguments["timestep"])))
        return record(call, recording)

    monkeypatch.setattr(runner, "record_pass", spy)
    return seen


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_lockstep_records_the_original_with_the_noise_of_the_edit(
    scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy computes the noise from the pipeline's first input; the test compares it with the pipeline's own."""
    job = Job("XLImg2Img", scheduler)
    noises, errors = [], []
    original = torch.randn(1, 4, 16, 16)
    start = original.clone()
    start[..., 4:8, 4:8] += 1
    add_noise = job.pipe.scheduler.add_noise

    def listen(latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        noises.extend([noise] if noise.shape == original.shape else [])
        return add_noise(latents, noise, timesteps)

    def compare(call: Call, recording: Recording) -> Any:
        timestep = call.arguments["timestep"]
        expected = job.pipe.scheduler.scale_model_input(add_noise(original, noises[0], timestep[None]), timestep)
        errors.append(((call.sample - expected).norm() / expected.norm()).item())
        return record(call, recording)

    record = runner.record_pass
    job.pipe.scheduler.add_noise = listen
    monkeypatch.setattr(runner, "record_pass", compare)
    with sige.enable(job.pipe) as handle:
        with handle.edit(job.mask, Lockstep(original=original, start=start)):
            job(image=start)
    assert handle.passes.dense == handle.passes.packed == len(errors) == job.pipe.num_timesteps
    assert max(errors) < 1e-4


@pytest.mark.parametrize("scheduler", ["KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"])
def test_lockstep_noises_the_original_at_the_level_of_a_second_order_call(
    scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every other call has a noise level between two steps; the test takes the levels from the scheduler's tables."""
    job = Job("XLImg2Img", scheduler)
    original, noise, levels = torch.randn(1, 4, 16, 16), [], []
    add_noise, record = job.pipe.scheduler.add_noise, runner.record_pass

    def listen(latents: Tensor, drawn: Tensor, timesteps: Tensor) -> Tensor:
        noise.extend([drawn] if drawn.shape == original.shape else [])
        return add_noise(latents, drawn, timesteps)

    def compare(call: Call, recording: Recording) -> Any:
        scheduler = job.pipe.scheduler
        first_order = scheduler.state_in_first_order
        index = scheduler.step_index - (0 if first_order or "Ancestral" not in type(scheduler).__name__ else 1)
        sigma = float((scheduler.sigmas if first_order else scheduler.sigmas_interpol)[index])
        expected = (original + sigma * noise[0]) / (sigma**2 + 1) ** 0.5
        levels.append((first_order, ((call.sample - expected).norm() / expected.norm()).item()))
        return record(call, recording)

    job.pipe.scheduler.add_noise = listen
    monkeypatch.setattr(runner, "record_pass", compare)
    with sige.enable(job.pipe) as handle, handle.edit(job.mask, Lockstep(original=original)):
        job(image=original)
    assert {first_order for first_order, _ in levels} == {True, False}
    assert max(error for _, error in levels) < 1e-3


def test_lockstep_of_an_unchanged_picture_is_the_dense_pipeline() -> None:
    """Original and edit are the same latents at the first step; later the edit follows its own path."""
    job = Job("XLImg2Img")
    original = torch.randn(1, 4, 16, 16)
    dense = job(image=original, num_inference_steps=2, strength=0.5)  # a single step
    with sige.enable(job.pipe) as handle:
        with handle.edit(job.mask, Lockstep(original=original)):
            out = job(image=original, num_inference_steps=2, strength=0.5)
    torch.testing.assert_close(out, dense, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["Inpaint", "XLInpaint"])
def test_lockstep_of_an_inpainting_unet_keeps_mask_and_masked_picture(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    unet = sdxl_inpainting() if kind == "XLInpaint" else sd15(in_channels=9, sample_size=16)
    job, seen = Job(kind, unet=unet), spy_on_recorded(monkeypatch)
    with sige.enable(job.pipe) as handle:
        with handle.edit(job.mask, Lockstep(original=job.latents())):
            out = job()
    assert torch.isfinite(out).all()
    assert all(torch.equal(sample[:, 4:], seen[0][0][:, 4:]) for sample, _ in seen)
    assert seen[0][0].shape == (2, 9, 16, 16)


def test_lockstep_without_the_original_says_what_it_needs() -> None:
    job = Job("XLInpaint")
    with sige.enable(job.pipe) as handle:
        with pytest.raises(ConfigError, match=r"original: lockstep runs the original.*original=latents"):
            with handle.edit(job.mask, Lockstep()):
                pass
