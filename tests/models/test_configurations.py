"""Other configurations than those of the cases: they work, or enable() refuses them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import sige
from sige import Region, UnsupportedError
from tests.models.call import Call
from tests.models.test_properties import RELATIVE_ERROR, relative_error
from tests.models.tiny import sd15, vae

WORKING: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "LCM": ({"time_cond_proj_dim": 8}, {"timestep_cond": torch.ones(2, 8)}),
    "no middle block": ({"mid_block_type": None}, {}),
    "scaled middle block": ({"mid_block_scale_factor": 2.0}, {}),
    "one resnet a level": ({"layers_per_block": 1}, {}),
    "class labels": ({"num_class_embeds": 5}, {"class_labels": torch.tensor([3, 1])}),
    "centred input": ({"center_input_sample": True}, {}),
    "time embedding with activation": ({"time_embedding_act_fn": "silu"}, {}),
    "dropout at rest": ({"dropout": 0.5}, {}),
}


@pytest.mark.parametrize(("config", "extra"), WORKING.values(), ids=WORKING)
def test_a_configuration_that_works(config: dict[str, Any], extra: dict[str, Any]) -> None:
    assert Call(sd15(**config), **extra).packed_error() <= RELATIVE_ERROR


UNKNOWN: dict[str, tuple[dict[str, Any], str]] = {
    "scale and shift by time": ({"resnet_time_scale_shift": "scale_shift"}, r"unet\.down_blocks\.0\.resnets\.0 \("),
    "no self-attention": ({"only_cross_attention": True}, r"attentions\.0\.transformer_blocks\.0 \("),
    "two transformers": ({"dual_cross_attention": True}, r"unet\.down_blocks\.0\.attentions\.0 \(.*DualTransformer2D"),
    "another activation": ({"act_fn": "gelu"}, r"unet\.conv_act \(.*GELU\)"),
    "a wider first kernel": ({"conv_in_kernel": 5}, r"unet\.conv_in \(.*Conv2d\).*5, 5"),
    "a projected prompt": ({"encoder_hid_dim_type": "text_proj", "encoder_hid_dim": 24}, "projection of the prompt"),
    "GLIGEN": ({"attention_type": "gated"}, r"transformer_blocks\.0 \(.*GLIGEN"),
    "a middle without attention": ({"mid_block_type": "UNetMidBlock2D"}, r"unet\.mid_block \(.*\.UNetMidBlock2D\)"),
    "resnets that downsample": (
        {"down_block_types": ("ResnetDownsampleBlock2D", *("CrossAttnDownBlock2D",) * 2, "DownBlock2D")},
        r"unet\.down_blocks\.0 \(.*ResnetDownsampleBlock2D\).*expected CrossAttnDownBlock2D or DownBlock2D",
    ),
}


@pytest.mark.parametrize(("config", "message"), UNKNOWN.values(), ids=UNKNOWN)
def test_a_configuration_that_is_not_known_is_refused_at_enable(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        sige.enable(sd15(**config))


@pytest.mark.parametrize("config", [{"mid_block_add_attention": False}, {"layers_per_block": 2}], ids=str)
def test_a_vae_configuration_that_works(config: dict[str, Any]) -> None:
    model = vae(**config)
    z, edited = torch.randn(2, 1, 4, 8, 8)
    with torch.no_grad(), sige.enable(model) as handle:
        dense = model.decode(edited).sample
        with handle.record():
            model.decode(z)
        with handle.edit(Region.full(64, 64)):
            assert relative_error(model.decode(edited).sample, dense) <= RELATIVE_ERROR
