"""Pipelines that share modules: each runs sparse by its own steps, and disabling one leaves the other as it was."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

import sige
from sige import ConfigError, RecordingError, Temporal
from tests.models.job import STEPS, Job
from tests.models.state import strides, wrapped
from tests.models.tiny import randomise, sdxl_base


def with_unet(job: Job, unet: Any, scheduler: str = "EulerDiscreteScheduler") -> Job:
    """A second pipeline with the same VAE and its own UNet and scheduler, like a refiner beside its base."""
    other = Job("XLInpaint", scheduler, unet=unet)
    other.pipe = type(job.pipe)(**{**job.pipe.components, "unet": unet, "scheduler": other.pipe.scheduler})
    other.pipe.set_progress_bar_config(disable=True)
    return other


def another_unet() -> Any:
    unet = sdxl_base()
    randomise(unet, 99)
    return unet


def alone(job: Job) -> Tensor:
    """The sparse result while no other pipeline is enabled."""
    with sige.enable(job.pipe) as handle, handle.edit(job.mask):
        return job()


def test_two_pipelines_that_share_a_vae_both_run_sparse() -> None:
    base = Job("XLInpaint")
    refiner = with_unet(base, another_unet())
    expected = [alone(job) for job in (base, refiner)]
    with sige.enable(base.pipe) as first, sige.enable(refiner.pipe) as second:
        assert first is not second
        assert sige.handle_of(base.pipe) is first and sige.handle_of(refiner.pipe) is second
        for handle, job, result in zip((first, second), (base, refiner), expected, strict=True):
            with handle.edit(job.mask):
                assert torch.equal(job(), result)
            assert (handle.passes.dense, handle.passes.packed) == (3, STEPS - 3)
        with first.edit(base.mask), second.edit(refiner.mask):  # a base and its refiner in one block
            assert [torch.equal(job(), result) for job, result in zip((base, refiner), expected, strict=True)] == [
                True,
                True,
            ]


def test_a_shared_module_stays_enabled_until_the_last_handle_is_disabled() -> None:
    base = Job("XLInpaint")
    refiner = with_unet(base, another_unet())
    before = strides(base.pipe.vae)
    first, second = sige.enable(base.pipe), sige.enable(refiner.pipe)
    first.disable()
    assert wrapped(base.pipe.unet) == [] and wrapped(base.pipe.vae) == ["encoder", "decoder"]
    with second.edit(refiner.mask):
        refiner()
    assert second.passes.packed > 0
    second.disable()
    assert wrapped(base.pipe.vae) == [] and strides(base.pipe.vae) == before


def test_a_shared_module_is_in_one_context_at_a_time() -> None:
    base = Job("XLInpaint")
    refiner = with_unet(base, another_unet())
    with sige.enable(base.pipe) as first, sige.enable(refiner.pipe) as second, first.record():
        with pytest.raises(RecordingError, match=r"vae.encoder is shared with another pipeline, which is inside"):
            with second.record():
                pass
        with second.edit(refiner.mask):  # a policy takes the UNet alone
            refiner()
        assert second.passes.packed > 0


def test_a_pipeline_with_another_unet_is_enabled_again() -> None:
    job = Job("XLInpaint")
    with sige.enable(job.pipe) as old:
        job.pipe.unet = another_unet()
        with pytest.raises(ConfigError, match=r"has another UNet by now: call sige.enable\(pipe\) again"):
            with old.edit(job.mask):
                pass
        with sige.enable(job.pipe) as new, new.edit(job.mask):
            job()
        assert new.passes.packed == STEPS - 3


# ---- whose steps -----------------------------------------------------------------------------------------------------


def test_steps_are_those_of_the_pipeline_that_calls() -> None:
    """A second pipeline of the same modules has its own scheduler, steps and timesteps."""
    job = Job("XLImg2Img")
    other = Job("XLInpaint", "EulerDiscreteScheduler")
    other.pipe = diffusers.StableDiffusionXLInpaintPipeline(
        **{**job.pipe.components, "scheduler": other.pipe.scheduler}, add_watermarker=False
    )
    other.pipe.set_progress_bar_config(disable=True)
    assert other.pipe.unet is job.pipe.unet
    expected = alone(other)
    with sige.enable(job.pipe) as handle:
        job(num_inference_steps=5)  # leaves timesteps in the scheduler of the pipeline that was enabled
        with handle.edit(job.mask, Temporal(dense_steps=3)):
            other(num_inference_steps=10)
            assert (handle.passes.dense, handle.passes.packed) == (3, 7)
        with handle.edit(job.mask):
            assert torch.equal(other(), expected)
            assert torch.equal(other(), expected), "a second call reads nothing of the first"
            job()
            assert torch.equal(other(), expected)


def test_a_pipeline_made_from_another_one_runs_by_its_own_steps() -> None:
    job = Job("XLImg2Img")
    pipe = diffusers.AutoPipelineForInpainting.from_pipe(job.pipe)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = diffusers.EulerDiscreteScheduler()
    mask = torch.tensor(job.mask, dtype=torch.float32)[None, None]
    with sige.enable(job.pipe) as handle, handle.edit(job.mask):
        job.pipe, inpainting = pipe, {"mask_image": mask, "height": 128, "width": 128, "strength": 1.0}
        first = job(num_inference_steps=10, **inpainting)
        assert (handle.passes.dense, handle.passes.packed) == (3, 7)
        assert torch.equal(job(num_inference_steps=10, **inpainting), first)


def test_a_loop_of_the_users_own_follows_the_timesteps_of_the_enabled_pipeline() -> None:
    job = Job("XLImg2Img")
    added = {"text_embeds": torch.zeros(1, 16), "time_ids": torch.zeros(1, 6)}
    latents, prompt = torch.randn(1, 4, 16, 16), job.options["prompt_embeds"]
    with sige.enable(job.pipe) as handle, handle.edit(job.mask), torch.no_grad():
        for _ in range(2):
            job.pipe.scheduler.set_timesteps(10)
            for timestep in job.pipe.scheduler.timesteps:
                noise = job.unet(latents, timestep, prompt, added_cond_kwargs=added).sample
                latents = job.pipe.scheduler.step(noise, timestep, latents).prev_sample
            assert (handle.passes.dense, handle.passes.packed) == (3, 7)


# ---- what a handle keeps alive ---------------------------------------------------------------------------------------


def test_a_disabled_handle_keeps_nothing_alive() -> None:
    job = Job("XLInpaint")
    handle = sige.enable(job.pipe)
    with handle.record():
        job()
    alive = [weakref.ref(thing) for thing in (job.pipe, job.pipe.unet, job.pipe.vae, handle.last)]
    handle.disable()
    del job
    gc.collect()
    assert [reference() for reference in alive] == [None] * 4


def test_totals_count_every_pass_of_every_module() -> None:
    job = Job("XLInpaint")
    with sige.enable(job.pipe) as handle:
        with handle.edit(job.mask):
            job()
        job()
        totals = handle.totals
    assert (totals["unet"].dense, totals["unet"].packed) == (3 + STEPS, STEPS - 3)
    assert totals["vae.encoder"].dense >= 2 and totals["vae.encoder"].packed == 0
