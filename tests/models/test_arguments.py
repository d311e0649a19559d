"""Arguments of forward: a ControlNet's residuals work; arguments that cannot run packed are refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel
from torch import Tensor

import sige
from sige import Region, UnsupportedError
from tests.models.call import REGION, Call, UNet
from tests.models.test_properties import RELATIVE_ERROR, relative_error
from tests.models.tiny import TOKENS, randomise, sd15, sdxl_base, vae


def residuals(unet: UNet, x: Tensor) -> dict[str, Any]:
    """The residuals of a ControlNet with random weights: one per skip connection, one for the middle."""
    controlnet = ControlNetModel.from_unet(unet, load_weights_from_unet=False).eval()
    randomise(controlnet, 9)
    call = Call(unet)
    with torch.no_grad():
        down, middle = controlnet(x, **call.arguments, controlnet_cond=torch.rand(2, 3, 128, 128), return_dict=False)
    return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}


@pytest.mark.parametrize("model", [sdxl_base, sd15])
def test_a_controlnet_works(model: Callable[[], UNet]) -> None:
    call = Call(model())
    plain = call(call.edited)
    extra = residuals(call.unet, call.x)
    assert relative_error(call(call.edited, **extra), plain) > 0.1
    assert call.packed_error(**extra) <= RELATIVE_ERROR


def test_residuals_that_change_inside_the_region_are_added() -> None:
    """The edit has another control image than the recording."""
    call = Call(sdxl_base())
    recorded, edited = residuals(call.unet, call.x), residuals(call.unet, call.edited)
    dense = call(call.edited, **edited)
    with sige.enable(call.unet) as handle:
        with handle.record():
            call(call.x, **recorded)
        with handle.edit(REGION):
            assert relative_error(call(call.edited, **edited), dense) <= RELATIVE_ERROR


# ---- arguments that are refused on call -----------------------------------------------------------------------------

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "attention_mask": ({"attention_mask": torch.ones(2, 256)}, "attention_mask"),
    "encoder_attention_mask": ({"encoder_attention_mask": torch.ones(2, TOKENS)}, "encoder_attention_mask"),
    "T2I-Adapter": ({"down_intrablock_additional_residuals": [torch.zeros(2, 16, 8, 8)]}, "T2I-Adapter"),
    "down only": ({"down_block_additional_residuals": [torch.zeros(2, 16, 16, 16)] * 9}, "T2I-Adapter.*ControlNet"),
    "middle only": ({"mid_block_additional_residual": torch.zeros(2, 32, 4, 4)}, "ControlNet"),
    "GLIGEN": ({"cross_attention_kwargs": {"gligen": {}}}, "cross_attention_kwargs has gligen"),
    "IP-Adapter masks": (
        {"cross_attention_kwargs": {"ip_adapter_masks": []}},
        "cross_attention_kwargs has ip_adapter_masks",
    ),
}


@pytest.mark.parametrize(("extra", "message"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("region", [REGION, Region.empty(128, 128)], ids=["all", "none"])
def test_an_argument_that_cannot_run_packed_is_refused_by_name(
    extra: dict[str, Any], message: str, region: Region
) -> None:
    call = Call(sdxl_base())
    with sige.enable(call.unet) as handle:
        with handle.record():
            recorded = call(call.x)
        with handle.edit(region):
            with pytest.raises(UnsupportedError, match=f"unet.*{message}"):
                call(call.x, **extra)
            assert relative_error(call(call.x), recorded) <= RELATIVE_ERROR


def test_free_u_is_refused_on_call_until_it_is_off() -> None:
    call = Call(sdxl_base())
    with sige.enable(call.unet) as handle:
        with handle.record():
            recorded = call(call.x)
        call.unet.enable_freeu(s1=0.9, s2=0.2, b1=1.3, b2=1.4)
        with handle.edit(REGION):
            with pytest.raises(UnsupportedError, match=r"FreeU is on.*disable_freeu\(\)"):
                call(call.x)
            call.unet.disable_freeu()
            assert relative_error(call(call.x), recorded) <= RELATIVE_ERROR


def test_latent_embeds_of_a_decoder_are_refused() -> None:
    model, z = vae(), torch.randn(1, 4, 8, 8)
    with torch.no_grad(), sige.enable(model) as handle:
        with handle.record():
            model.decoder(z)
        with handle.edit(Region.full(64, 64)), pytest.raises(UnsupportedError, match="vae.decoder: latent_embeds"):
            model.decoder(z, latent_embeds=torch.zeros(1, 16))
