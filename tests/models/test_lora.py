"""LoRA: it works on linear layers as it is; on convolutions it is refused until it is fused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig

import sige
from sige import UnsupportedError
from tests.models.call import REGION, Call, UNet
from tests.models.test_properties import RELATIVE_ERROR, relative_error
from tests.models.tiny import sd15, sd21, sdxl_base, sdxl_refiner

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
LINEAR = [*ATTENTION, "ff.net.0.proj", "ff.net.2", "time_emb_proj"]


def add_lora(unet: UNet, targets: list[str], name: str = "default", **options: Any) -> None:
    torch.manual_seed(5)
    config = LoraConfig(r=2, lora_alpha=4, init_lora_weights=False, target_modules=targets, **options)
    unet.add_adapter(config, adapter_name=name)


LORA_MODELS: dict[str, Callable[[], UNet]] = {
    "sdxl-base": sdxl_base,
    "sdxl-refiner": sdxl_refiner,
    "sd15": sd15,
    "sd21": sd21,
}


@pytest.mark.parametrize(
    ("model", "options"),
    [
        *(pytest.param(model, {}, id=f"{model}-lora") for model in LORA_MODELS),
        *(pytest.param(model, {"use_dora": True}, id=f"{model}-dora") for model in ("sdxl-base", "sd15")),
    ],
)
def test_lora_on_linear_layers_works_fused_unfused_and_unloaded(model: str, options: dict[str, Any]) -> None:
    call = Call(LORA_MODELS[model]())
    projections = [] if model == "sd15" else ["proj_in", "proj_out"]  # convolutions in SD 1.5
    plain = call(call.edited)
    add_lora(call.unet, [*LINEAR, *projections], **options)
    adapted = call(call.edited)
    assert relative_error(adapted, plain) > 0.1
    assert call.packed_error() <= RELATIVE_ERROR
    call.unet.fuse_lora()
    assert relative_error(call(call.edited), adapted) < 1e-4
    assert call.packed_error() <= RELATIVE_ERROR
    call.unet.unfuse_lora()
    assert call.packed_error() <= RELATIVE_ERROR
    call.unet.unload_lora()
    assert relative_error(call(call.edited), plain) < 1e-4
    assert call.packed_error() <= RELATIVE_ERROR


def test_several_loras_with_weights() -> None:
    call = Call(sdxl_base())
    add_lora(call.unet, ATTENTION, "first")
    add_lora(call.unet, LINEAR, "second")
    call.unet.set_adapters(["first", "second"], [0.7, 0.4])
    assert call.packed_error() <= RELATIVE_ERROR
    call.unet.disable_lora()
    assert call.packed_error() <= RELATIVE_ERROR


def test_the_scale_of_a_lora_in_cross_attention_kwargs_is_refused() -> None:
    call = Call(sdxl_base())
    add_lora(call.unet, LINEAR)
    with pytest.raises(UnsupportedError, match="cross_attention_kwargs has scale.*set_adapters"):
        call.packed_error(cross_attention_kwargs={"scale": 0.3})
    assert call.packed_error(cross_attention_kwargs={"scale": 1.0}) <= RELATIVE_ERROR


def test_a_lora_loaded_while_enabled_applies_or_is_refused() -> None:
    call = Call(sdxl_base())
    with sige.enable(call.unet) as handle:
        add_lora(call.unet, LINEAR)
        dense = call(call.edited)
        with handle.record():
            call(call.x)
        try:
            with handle.edit(REGION):
                assert relative_error(call(call.edited), dense) <= RELATIVE_ERROR
        except UnsupportedError:
            pass


@pytest.mark.parametrize(
    ("model", "target", "path"),
    [
        (sdxl_base, "conv1", r"unet\.down_blocks\.0\.resnets\.0\.conv1"),
        (sdxl_base, "conv_shortcut", r"unet\.down_blocks\.1\.resnets\.0\.conv_shortcut"),
        (sdxl_base, "conv_in", r"unet\.conv_in"),
        (sd15, "proj_in", r"unet\.down_blocks\.0\.attentions\.0\.proj_in"),
    ],
)
def test_lora_on_a_convolution_is_refused_at_enable(model: Callable[[], UNet], target: str, path: str) -> None:
    unet = model()
    add_lora(unet, [target])
    with pytest.raises(UnsupportedError, match=path + r" \(peft\.tuners\.lora\.layer\.Conv2d\).*fuse_lora"):
        sige.enable(unet)


@pytest.mark.parametrize("target", ["conv1", "conv2", "conv_shortcut"])
def test_lora_on_a_convolution_works_fused_and_unloaded(target: str) -> None:
    call = Call(sdxl_base())
    add_lora(call.unet, [target])
    adapted = call(call.edited)
    call.unet.fuse_lora()
    call.unet.unload_lora()
    assert relative_error(call(call.edited), adapted) < 1e-4
    assert call.packed_error() <= RELATIVE_ERROR


def test_the_advice_for_lora_on_a_convolution_helps() -> None:
    """Peft's wrapper stays after fusing until unload_lora_weights(): it runs, or the message says to unload it."""
    call = Call(sdxl_base())
    add_lora(call.unet, ["conv1"])
    call.unet.fuse_lora()
    try:
        assert call.packed_error() <= RELATIVE_ERROR
    except UnsupportedError as error:
        if "unload" not in str(error):
            raise
