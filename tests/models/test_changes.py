"""Changes inside an open edit: of modules, hooks, processors, weights, the batch. The call notices or refuses them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from peft import LoraConfig
from torch import Tensor

import sige
from sige import Lockstep, Region, Temporal, UnsupportedError
from tests.models.call import REGION, Call
from tests.models.job import STEPS, Job
from tests.models.test_lora import LINEAR, add_lora
from tests.models.test_properties import RELATIVE_ERROR, relative_error
from tests.models.tiny import sdxl_base

CHANGED_AT = 4  # the step after which something changes


def changing(change: Callable[[Any], object]) -> Callable[..., dict[str, Any]]:
    """A callback that changes the pipeline after one step."""

    def callback(pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if index == CHANGED_AT - 1:
            change(pipe)
        return values

    return callback


# ---- by hand ---------------------------------------------------------------------------------------------------------


def test_a_lora_added_inside_an_open_edit_is_used() -> None:
    call = Call(sdxl_base())
    with sige.enable(call.unet) as handle:
        with handle.record():
            call(call.x)
        with handle.edit(REGION):
            plain = call(call.edited)
            add_lora(call.unet, LINEAR)
            adapted = call(call.edited)
            dense = type(call.unet).forward(call.unet, call.edited, **call.arguments).sample
    assert relative_error(adapted, dense) <= RELATIVE_ERROR < relative_error(adapted, plain)


def test_the_weight_of_a_lora_set_inside_an_open_edit_reaches_the_keys_of_the_prompt() -> None:
    """Cross-attention keeps its keys and values while the prompt stays, but computes them again for other weights."""
    call = Call(sdxl_base())
    config = LoraConfig(r=2, lora_alpha=4, init_lora_weights=False, target_modules=["attn2.to_k", "attn2.to_v"])
    call.unet.add_adapter(config, adapter_name="default")
    for change in (
        lambda: call.unet.set_adapters(["default"], [3.0]),
        lambda: call.unet.disable_lora(),
        lambda: [p.detach().mul_(2) for name, p in call.unet.named_parameters() if "attn2.to_k" in name],
    ):
        with sige.enable(call.unet) as handle:
            with handle.record():
                call(call.x)
            with handle.edit(REGION):
                before = call(call.edited)
                change()
                after = call(call.edited)
                dense = type(call.unet).forward(call.unet, call.edited, **call.arguments).sample
        assert relative_error(after, dense) <= RELATIVE_ERROR < relative_error(after, before)


def test_a_processor_set_inside_an_open_edit_is_refused_by_name() -> None:
    class OwnProcessor(AttnProcessor2_0):
        """Somebody's own attention."""

    call = Call(sdxl_base())
    with sige.enable(call.unet) as handle:
        with handle.record():
            call(call.x)
        with handle.edit(REGION):
            call(call.edited)
            call.unet.set_attn_processor(OwnProcessor())
            with pytest.raises(UnsupportedError, match="attention goes through OwnProcessor"):
                call(call.edited)
            call.unet.set_attn_processor(AttnProcessor2_0())
            call(call.edited)


def test_a_hook_set_inside_an_open_edit_is_refused_by_path() -> None:
    call = Call(sdxl_base())
    with sige.enable(call.unet) as handle:
        with handle.record():
            call(call.x)
        with handle.edit(REGION):
            hook = call.unet.mid_block.resnets[0].conv1.register_forward_hook(lambda *_: None)
            with pytest.raises(UnsupportedError, match=r"unet\.mid_block\.resnets\.0\.conv1 .*has a hook"):
                call(call.edited)
            hook.remove()
            call(call.edited)


# ---- with a policy ---------------------------------------------------------------------------------------------------


def sparse(job: Job, change: Callable[[Any], object] | None, policy: Temporal) -> tuple[Tensor, int]:
    """The result of one call, and the number of dense passes."""
    options = {"callback_on_step_end": changing(change)} if change else {}
    with sige.enable(job.pipe) as handle, handle.edit(job.mask, policy):
        return job(**options), handle.passes.dense


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda pipe: add_lora(pipe.unet, LINEAR), id="a LoRA is added"),
        pytest.param(lambda pipe: [p.detach().mul_(1.1) for p in pipe.unet.mid_block.parameters()], id="weights"),
        pytest.param(lambda pipe: sige.tome.apply(pipe, max_downsample=2), id="tokens begin to merge"),
    ],
)
def test_a_change_between_two_steps_makes_the_next_one_dense(change: Callable[[Any], object]) -> None:
    """The policy drops recordings of other weights, then goes on with the plan."""
    policy = Temporal(dense_steps=(0, 1))
    _, plain = sparse(Job("XLInpaint"), None, policy)
    out, dense = sparse(Job("XLInpaint"), change, policy)
    assert (plain, dense) == (2, 3)
    everything = Temporal(dense_steps=STEPS)
    reference, _ = sparse(Job("XLInpaint"), change, everything)
    assert torch.isfinite(out).all()
    unchanged, _ = sparse(Job("XLInpaint"), None, everything)
    assert (out - reference).norm() < (out - unchanged).norm()


def no_more_guidance(job: Job) -> Callable[..., dict[str, Any]]:
    """A callback that turns guidance off at some step, as diffusers' documentation does: half of the batch remains."""

    def callback(pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if index == CHANGED_AT - 1:
            pipe._guidance_scale = 0.0
            for name in ("prompt_embeds", "add_text_embeds", "add_time_ids"):
                values[name] = values[name][-1:]
        return values

    job.options |= {
        "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds", "add_text_embeds", "add_time_ids"]
    }
    return callback


@pytest.mark.parametrize("policy", ["temporal", "lockstep"])
def test_guidance_that_ends_in_the_middle_of_a_call(policy: str) -> None:
    job = Job("XLImg2Img")
    callback = no_more_guidance(job)
    dense = job(callback_on_step_end=callback)
    chosen = Temporal() if policy == "temporal" else Lockstep(original=job.latents(), dilation=128)
    with sige.enable(job.pipe) as handle, handle.edit(job.mask, chosen):
        out = job(callback_on_step_end=callback)
        assert handle.passes.packed > 0
    assert torch.isfinite(out).all()
    if policy == "lockstep":  # with everything active the pass reads no value of the original
        torch.testing.assert_close(out, dense, rtol=1e-3, atol=1e-3)


def test_guidance_that_begins_in_the_middle_of_a_call_is_refused_in_lockstep() -> None:
    job = Job("XLImg2Img")
    with sige.enable(job.pipe) as handle, handle.edit(job.mask, Lockstep(original=job.latents())):
        job.pipe.scheduler.set_timesteps(4)
        first, second, *_ = job.pipe.scheduler.timesteps
        added = {"text_embeds": torch.zeros(2, 16), "time_ids": torch.zeros(2, 6)}
        prompt, latents = torch.zeros(2, 7, 24), torch.randn(2, 4, 16, 16)
        halves = {name: value[:1] for name, value in added.items()}
        with torch.no_grad():
            job.unet(latents[:1], first, prompt[:1], added_cond_kwargs=halves)
            with pytest.raises(sige.ConfigError, match="guidance cannot begin in the middle of a call"):
                job.unet(latents, second, prompt, added_cond_kwargs=added)


def test_a_region_stays_the_same_object_for_many_edits() -> None:
    """One region serves edits with different policies, and pipelines of different schedulers."""
    region = Region.from_mask(Job("XLInpaint").mask, dilation=0)
    for scheduler in ("DDIMScheduler", "EulerDiscreteScheduler"):
        job = Job("XLInpaint", scheduler)
        for policy in (Temporal(), Lockstep(original=job.latents())):
            with sige.enable(job.pipe) as handle, handle.edit(region, policy):
                assert torch.isfinite(job()).all()
