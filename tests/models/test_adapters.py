"""Attention processors, tiles, and what enable() takes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from diffusers import AsymmetricAutoencoderKL, AutoencoderKL, DDIMScheduler
from diffusers.models.attention_processor import AttnProcessor2_0, IPAdapterAttnProcessor2_0
from torch import nn

import sige
from sige import Region, UnsupportedError
from tests.models.call import REGION, Call
from tests.models.test_properties import RELATIVE_ERROR, relative_error
from tests.models.tiny import sd15, sdxl_base, vae


def test_an_ip_adapter_is_refused_by_name() -> None:
    unet = sd15()
    processors = dict(unet.attn_processors)
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.processor"
    processors[name] = IPAdapterAttnProcessor2_0(hidden_size=32, cross_attention_dim=24)
    unet.set_attn_processor(processors)
    message = r"unet\.mid_block\.attentions\.0\.transformer_blocks\.0\.attn2 \(.*IP-Adapter.*unload it"
    with pytest.raises(UnsupportedError, match=message):
        sige.enable(unet)


def test_the_projection_of_an_ip_adapter_is_refused_by_name() -> None:
    unet = sd15()
    unet.encoder_hid_proj = nn.Linear(4, 4)
    with pytest.raises(UnsupportedError, match="IP-Adapter.*unload it first"):
        sige.enable(unet)


def test_fused_projections_are_refused() -> None:
    unet = sdxl_base()
    unet.fuse_qkv_projections()
    with pytest.raises(UnsupportedError, match=r"attn1 \(.*Fused"):
        sige.enable(unet)


def test_the_advice_for_fused_projections_helps() -> None:
    call = Call(sdxl_base())
    call.unet.fuse_qkv_projections()
    call.unet.unfuse_qkv_projections()
    assert call.packed_error() <= RELATIVE_ERROR


@pytest.mark.parametrize("slices", ["auto", "max", 1], ids=str)
def test_sliced_attention_is_the_same_attention(slices: str | int) -> None:
    call = Call(sdxl_base())
    call.unet.set_attention_slice(slices)
    assert call.packed_error() <= RELATIVE_ERROR


@pytest.mark.parametrize("kind", ["tiling", "slicing"])
def test_a_vae_in_tiles_or_slices_is_refused(kind: str) -> None:
    model = vae()
    getattr(model, f"enable_{kind}")()
    with pytest.raises(UnsupportedError, match=rf"vae: use_{kind} is on.*disable_{kind}\(\)"):
        sige.enable(model)
    getattr(model, f"disable_{kind}")()
    sige.enable(model).disable()


@pytest.mark.parametrize("kind", ["tiling", "slicing"])
def test_a_vae_in_tiles_or_slices_is_refused_on_call(kind: str) -> None:
    """Without the refusal, the recording would hold the last tile or slice, and an edit would read it as the image."""
    model = vae()
    model.tile_latent_min_size, model.tile_sample_min_size, model.tile_overlap_factor = 8, 64, 0.0
    z = torch.randn(2, 4, 16, 8)  # two samples, and two tiles each
    with torch.no_grad(), sige.enable(model) as handle:
        getattr(model, f"enable_{kind}")()
        with pytest.raises(UnsupportedError, match=kind):
            with handle.record():
                recorded = model.decode(z).sample
            with handle.edit(Region.from_mask(torch.eye(128)[:, ::2], dilation=0)):
                out = model.decode(z).sample
            assert relative_error(out, recorded) <= RELATIVE_ERROR


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(2, 2),
        lambda: DDIMScheduler(),
        lambda: vae().decoder,
        pytest.param(
            lambda: None,
        ),
    ],
    ids=["linear", "scheduler", "decoder", "None"],
)
def test_what_is_no_model_is_refused_by_its_class(make: Callable[[], object]) -> None:
    target = make()
    name = type(target).__name__
    with pytest.raises(UnsupportedError, match=rf"{name}, expected a UNet2DConditionModel, an AutoencoderKL or a pipe"):
        sige.enable(target)


def test_another_autoencoder_is_refused_by_its_class() -> None:
    blocks = {"down_block_out_channels": (8,), "up_block_out_channels": (8,), "norm_num_groups": 4}
    other = AsymmetricAutoencoderKL(**blocks)
    assert not isinstance(other, AutoencoderKL)
    with pytest.raises(UnsupportedError, match="AsymmetricAutoencoderKL, expected"):
        sige.enable(other)


# ---- what changes while a model is enabled --------------------------------------------------------------------------


class OwnProcessor(AttnProcessor2_0):
    """Somebody's own attention."""


def test_a_processor_set_while_enabled_is_refused_until_it_is_gone() -> None:
    unet = sdxl_base()
    call = Call(unet)
    with sige.enable(unet) as handle:
        with handle.record():
            before = call(call.x)
        unet.set_attn_processor(OwnProcessor())
        with pytest.raises(UnsupportedError, match=r"unet\..*attn1 .*attention goes through OwnProcessor"):
            with handle.edit(REGION):
                pass
        unet.set_attn_processor(AttnProcessor2_0())
        with handle.edit(REGION):
            assert relative_error(call(call.x), before) <= RELATIVE_ERROR


def hang(module: nn.Module, kind: str) -> Callable[[], None]:
    """Gives the module a hook or a forward of its own; returns the function that removes it."""
    if kind == "forward":
        module.forward = module.forward
        return lambda: delattr(module, "forward")
    register = module.register_forward_hook if kind == "hook" else module.register_forward_pre_hook
    return register(lambda *_: None).remove


HOOKED = {"block": "mid_block.resnets.0", "convolution": "conv_in", "norm": "mid_block.attentions.0.norm"}


@pytest.mark.parametrize("path", HOOKED.values(), ids=HOOKED)
@pytest.mark.parametrize("kind", ["hook", "pre-hook", "forward"])
def test_a_hook_that_a_packed_pass_would_leave_out_is_refused_until_it_is_gone(path: str, kind: str) -> None:
    unet = sdxl_base()
    call = Call(unet)
    with sige.enable(unet) as handle:
        with handle.record():
            before = call(call.x)
        remove = hang(unet.get_submodule(path), kind)
        with pytest.raises(UnsupportedError, match=rf"unet\.{path} .*has a hook or a replaced forward"):
            with handle.edit(REGION):
                pass
        remove()
        with handle.edit(REGION):
            assert relative_error(call(call.x), before) <= RELATIVE_ERROR


@pytest.mark.parametrize("kind", ["hook", "forward"])
def test_a_hook_on_a_linear_layer_works(kind: str) -> None:
    unet = sdxl_base()
    call = Call(unet)
    layer = unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q
    plain, forward = call(call.x), layer.forward
    if kind == "hook":
        layer.register_forward_hook(lambda _module, _args, output: 2 * output)
    else:
        layer.forward = lambda rows: 2 * forward(rows)
    assert relative_error(call(call.x), plain) > 1e-3
    assert call.packed_error() <= RELATIVE_ERROR


def test_dropout_while_training_is_refused() -> None:
    unet = sdxl_base(dropout=0.1)
    call = Call(unet)
    with sige.enable(unet) as handle:
        with handle.record():
            call(call.x)
        unet.train()
        with pytest.raises(UnsupportedError, match=r"drops features while training.*call eval\(\) first"):
            with handle.edit(REGION):
                pass
        unet.eval()
        with handle.edit(REGION):
            call(call.x)
