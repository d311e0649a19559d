"""Whole diffusers pipelines while enabled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    UNet2DConditionModel,
)
from torch import Tensor

import sige
from sige import Recording, Region
from sige.recordings import ComponentRecording
from tests.models.state import wrapped
from tests.models.test_properties import OpCounter
from tests.models.tiny import TOKENS, sdxl_base, sdxl_inpainting, vae


def inpainting(unet: UNet2DConditionModel, coder: AutoencoderKL) -> tuple[Any, dict[str, Any]]:
    parts = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    pipe = StableDiffusionXLInpaintPipeline(vae=coder, unet=unet, scheduler=EulerDiscreteScheduler(), **parts)
    mask = torch.zeros(1, 1, 128, 128)
    mask[..., 30:90, 40:100] = 1
    return pipe, {"mask_image": mask, "height": 128, "width": 128}


def img2img(unet: UNet2DConditionModel, coder: AutoencoderKL) -> tuple[Any, dict[str, Any]]:
    parts = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    pipe = StableDiffusionXLImg2ImgPipeline(vae=coder, unet=unet, scheduler=EulerDiscreteScheduler(), **parts)
    return pipe, {}


def run_pipeline(pipe: Any, options: dict[str, Any], seed: int) -> Tensor:  # [1, 3, 128, 128]
    generator = torch.Generator().manual_seed(seed)
    embeds = {
        name: torch.randn(1, *shape, generator=generator)
        for name, shape in (
            ("prompt_embeds", (TOKENS, 24)),
            ("negative_prompt_embeds", (TOKENS, 24)),
            ("pooled_prompt_embeds", (16,)),
            ("negative_pooled_prompt_embeds", (16,)),
        )
    }
    image = torch.rand(1, 3, 128, 128, generator=generator)
    steps = {"num_inference_steps": 4, "strength": 0.5, "guidance_scale": 3.0}
    return pipe(image=image, **embeds, **options, **steps, generator=generator, output_type="pt").images


@pytest.mark.parametrize(
    ("build", "unet"), [(inpainting, sdxl_inpainting), (inpainting, sdxl_base), (img2img, sdxl_base)]
)
def test_a_whole_pipeline_with_everything_active_equals_the_dense_pipeline(
    build: Callable[..., tuple[Any, dict[str, Any]]], unet: Callable[[], UNet2DConditionModel]
) -> None:
    """Stock diffusers pipelines run unchanged: guidance, scheduler, encoder and decoder."""
    # The pipeline scales down by as many levels as the VAE has; SDXL's micro-conditioning is six numbers wide.
    pipe, options = build(unet(), vae())
    pipe.set_progress_bar_config(disable=True)
    dense = run_pipeline(pipe, options, 1)
    handle = sige.enable(pipe)
    assert sige.enable(pipe) is handle
    assert list(handle.components) == ["unet", "vae.encoder", "vae.decoder"]
    with handle.record() as recording:
        run_pipeline(pipe, options, 2)
    assert set(recording.components) == set(handle.components)
    with handle.edit(Region.full(128, 128), blend=[(recording, 1.0)]), OpCounter() as counter:
        out = run_pipeline(pipe, options, 1)
    assert counter.ran
    handle.disable()
    assert torch.equal(run_pipeline(pipe, options, 1), dense)
    # Pixels are clamped to 0 .. 1, and the errors of a few passes add up.
    assert (out - dense).abs().max() < 1e-4


def test_enabling_a_pipeline_and_then_its_unet_is_enabling_once() -> None:
    pipe, _ = img2img(sdxl_base(), vae())
    handle = sige.enable(pipe)
    try:
        assert sige.enable(pipe.unet).components["unet"] is handle.components["unet"]
        sige.enable(pipe.unet).disable()
        assert handle.enabled is bool(wrapped(pipe.unet)), "the pipeline's handle is enabled, its UNet is not"
    finally:
        handle.disable()


def test_a_part_of_a_recording_can_be_taken_to_another() -> None:
    """A recording is a plain container: components recorded at different times can be put together."""
    model = vae()
    z, image = torch.randn(1, 4, 8, 8), torch.randn(1, 3, 64, 64)
    with torch.no_grad(), sige.enable(model) as handle:
        with handle.record() as decoded:
            model.decode(z)
        with handle.record() as encoded:
            model.encode(image)
        both = Recording({**decoded.components, **encoded.components})
        assert all(isinstance(part, ComponentRecording) for part in both.components.values())
        assert both.nbytes == decoded.nbytes + encoded.nbytes
        with handle.edit(Region.empty(64, 64), blend=[(both, 1.0)]):
            assert torch.equal(model.decode(z).sample, decoded.components["vae.decoder"].output)
            model.encode(image)
