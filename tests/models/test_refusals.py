"""A policy refuses by name the calls that it cannot run packed, and leaves alone the parts that it never packs."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from diffusers import AsymmetricAutoencoderKL, AutoencoderTiny
from diffusers.models.attention_processor import AttnProcessor2_0 as Genuine

import sige
from sige import ConfigError, Lockstep, Temporal, UnsupportedError
from tests.models.call import REGION, Call
from tests.models.job import STEPS, Job
from tests.models.tiny import sdxl_base, vae

# ---- calls that a packed pass cannot take ----------------------------------------------------------------------------


def test_a_crop_around_the_mask_is_refused_by_name() -> None:
    """The pipeline works on the crop, but the region is of the whole picture."""
    from PIL import Image

    job = Job("XLInpaint")
    image = Image.fromarray((job.image[0].permute(1, 2, 0).numpy() * 255).astype("uint8"))
    pictures = {"image": image, "mask_image": Image.fromarray(job.mask), "padding_mask_crop": 8}
    with sige.enable(job.pipe) as handle:
        with (
            handle.edit(job.mask),
            pytest.raises(UnsupportedError, match=r"^padding_mask_crop: .*leave .* out, or crop"),
        ):
            job.pipe(**{**job.options, **pictures}, num_inference_steps=4, strength=1.0, output_type="pil")
        with handle.edit(job.mask):  # the handle still works
            job()
        assert handle.passes.packed == STEPS - 3


def test_a_compiled_model_is_refused_before_and_after_it_is_enabled() -> None:
    unet = sdxl_base()
    unet.compile()
    with pytest.raises(UnsupportedError, match=r"unet: compile\(\) was called on it"):
        sige.enable(unet)
    call = Call(sdxl_base())
    with sige.enable(call.unet) as handle:
        with handle.record():
            call(call.x)
        call.unet.compile(backend="eager")
        with pytest.raises(UnsupportedError, match=r"unet: compile\(\) was called on it"):
            with handle.edit(REGION):
                call(call.edited)
        call.unet._compiled_call_impl = None
        with handle.edit(REGION):
            call(call.edited)


def test_a_model_compiled_inside_an_open_edit_is_refused() -> None:
    call = Call(sdxl_base())
    with sige.enable(call.unet) as handle:
        with handle.record():
            call(call.x)
        with handle.edit(REGION):
            call.unet.compile(backend="eager")
            with pytest.raises(UnsupportedError, match=r"unet: compile\(\) was called on it"):
                call(call.edited)


def test_a_wrapper_of_torch_compile_is_refused_by_its_class() -> None:
    job = Job("XLInpaint")
    wrapped = torch.compile(job.unet)
    job.pipe.register_modules(unet=wrapped)
    for target in (wrapped, job.pipe):
        with pytest.raises(UnsupportedError, match=r"OptimizedModule, expected .*enable the one inside"):
            sige.enable(target)


def test_autocast_is_refused_by_name() -> None:
    call = Call(sdxl_base())
    with sige.enable(call.unet) as handle:
        with torch.autocast("cpu", torch.bfloat16):
            call(call.x)  # outside the contexts the model is the model
            with handle.record(), pytest.raises(UnsupportedError, match=r"unet: called under torch.autocast"):
                call(call.x)
        with handle.record():
            call(call.x)
        with handle.edit(REGION), torch.autocast("cpu", torch.bfloat16):
            with pytest.raises(UnsupportedError, match=r"unet: called under torch.autocast"):
                call(call.edited)


def test_a_pag_pipeline_is_refused_by_its_processor() -> None:
    """A PAG pipeline installs its own attention during its call, after the model was enabled."""
    job = Job("XLInpaint")
    job.pipe = diffusers.StableDiffusionXLPAGInpaintPipeline(**job.pipe.components, pag_applied_layers=["mid"])
    job.pipe.set_progress_bar_config(disable=True)
    with sige.enable(job.pipe) as handle, handle.edit(job.mask):
        with pytest.raises(UnsupportedError, match=r"unet\.mid_block\..*attention goes through PAG"):
            job(pag_scale=3.0)


@pytest.mark.parametrize(
    ("original", "message"),
    [
        (torch.zeros(1, 4, 8, 8), r"original: got latents \[1, 4, 8, 8\], expected \[1 or 2, C, 16, 16\]"),
        (torch.zeros(3, 4, 16, 16), r"original: got latents \[3, 4, 16, 16\], expected \[1 or 2, C, 16, 16\]"),
        (torch.zeros(1, 3, 16, 16), r"original: got latents \[1, 3, 16, 16\], expected"),
    ],
    ids=["size", "batch", "channels"],
)
def test_an_original_that_does_not_fit_is_refused_by_name(original: torch.Tensor, message: str) -> None:
    job = Job("XLInpaint")
    with sige.enable(job.pipe) as handle, handle.edit(job.mask, Lockstep(original=original)):
        with pytest.raises(ConfigError, match=message):
            job()


def test_a_subclass_of_a_plain_processor_is_refused_even_under_its_name() -> None:
    class AttnProcessor2_0(Genuine):  # noqa: N801 - the name is the point
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return 2 * super().__call__(*args, **kwargs)

    unet = sdxl_base()
    unet.set_attn_processor(AttnProcessor2_0())
    with pytest.raises(UnsupportedError, match="attention goes through AttnProcessor2_0"):
        sige.enable(unet)


# ---- what a policy never packs ---------------------------------------------------------------------------------------


def tiny_autoencoder() -> AutoencoderTiny:
    widths = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
    return AutoencoderTiny(**widths, num_encoder_blocks=(1,) * 4, num_decoder_blocks=(1,) * 4)


def asymmetric() -> AsymmetricAutoencoderKL:
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    widths = {"down_block_out_channels": (8,) * 4, "up_block_out_channels": (8,) * 4, "norm_num_groups": 4}
    return AsymmetricAutoencoderKL(**kinds, **widths)


def tiled() -> Any:
    coder = vae()
    coder.enable_tiling()
    return coder


@pytest.mark.parametrize("make", [tiny_autoencoder, asymmetric, tiled], ids=["tiny", "asymmetric", "tiled"])
def test_a_policy_runs_with_a_vae_that_cannot_run_packed(make: Any) -> None:
    job = Job("XLImg2Img")
    job.pipe.register_modules(vae=make().eval())
    latents = torch.randn(1, 4, 16, 16)
    with sige.enable(job.pipe) as handle:
        dense = job(image=latents)
        with handle.edit(job.mask):
            out = job(image=latents)
        assert handle.passes.packed > 0
        with torch.no_grad(), handle.edit(job.mask):  # its own passes run, dense
            decoded = job.pipe.vae.decode(out).sample
        assert decoded.shape[0] == 1 and torch.isfinite(decoded).all()
    assert torch.isfinite(out).all() and out.shape == dense.shape


def test_a_tiled_vae_is_refused_where_it_would_be_recorded() -> None:
    job = Job("XLImg2Img")
    job.pipe.vae.enable_tiling()
    with torch.no_grad(), sige.enable(job.pipe) as handle:
        with handle.record(), pytest.raises(UnsupportedError, match=r"vae: use_tiling is on.*disable_tiling\(\)"):
            job.pipe.vae.decode(torch.randn(1, 4, 16, 16))
        job.pipe.vae.disable_tiling()
        with handle.record() as recording:
            job.pipe.vae.decode(torch.randn(1, 4, 16, 16))
        assert list(recording.components) == ["vae.decoder"]


def test_the_default_policy_is_temporal() -> None:
    job = Job("XLInpaint")
    with sige.enable(job.pipe) as handle:
        with handle.edit(job.mask):
            default = job()
        with handle.edit(job.mask, Temporal()):
            assert torch.equal(job(), default)
