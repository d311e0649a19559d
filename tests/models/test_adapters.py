"""What changes a model from outside: it gives the dense result packed, or is refused by name with what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import AsymmetricAutoencoderKL, AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from diffusers.models.unets.unet_2d_blocks import ResnetDownsampleBlock2D
from peft import LoraConfig
from torch import Tensor, nn

import sige
from sige import Region, UnsupportedError
from tests.models.test_properties import RELATIVE_ERROR, relative_error
from tests.models.tiny import POOLED, TOKENS, randomise, sd15, sd21, sdxl_base, sdxl_refiner, vae

UNet = UNet2DConditionModel
REGION = Region.full(128, 128)


class Call:
    """A UNet with fixed conditioning, and two inputs."""

    def __init__(self, unet: UNet, **extra: Any) -> None:
        generator = torch.Generator().manual_seed(11)

        def random(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        self.unet = unet
        self.x, self.edited = random(2, 4, 16, 16), random(2, 4, 16, 16)
        self.arguments: dict[str, Any] = {"timestep": 5, "encoder_hidden_states": random(2, TOKENS, 24), **extra}
        if unet.config.addition_embed_type == "text_time":
            ids = (unet.config.projection_class_embeddings_input_dim - POOLED) // 8
            self.arguments["added_cond_kwargs"] = {"text_embeds": random(2, POOLED), "time_ids": random(2, ids)}

    def __call__(self, x: Tensor, **extra: Any) -> Tensor:  # [B, C, H, W] -> [B, C, H, W]
        with torch.no_grad():
            return self.unet(x, **self.arguments, **extra).sample

    def packed_error(self, **extra: Any) -> float:
        """Everything active against dense; both called in the same way."""
        dense = self(self.edited, **extra)
        with sige.enable(self.unet) as handle:
            with handle.record():
                recorded = self(self.x, **extra)
            with handle.edit(Region.from_mask(torch.eye(128), dilation=0)):
                assert relative_error(self(self.x, **extra), recorded) <= RELATIVE_ERROR
            with handle.edit(REGION):
                return relative_error(self(self.edited, **extra), dense)


# ---- LoRA -----------------------------------------------------------------------------------------------------------

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


@pytest.mark.parametrize("options", [{}, {"use_dora": True}], ids=["lora", "dora"])
@pytest.mark.parametrize("model", LORA_MODELS)
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
    """Fused, peft's wrapper stays until unload_lora_weights(): either it runs, or the message says to unload too."""
    call = Call(sdxl_base())
    add_lora(call.unet, ["conv1"])
    call.unet.fuse_lora()
    try:
        assert call.packed_error() <= RELATIVE_ERROR
    except UnsupportedError as error:
        if "unload" not in str(error):
            raise


# ---- ControlNet, T2I-Adapter ----------------------------------------------------------------------------------------


def residuals(unet: UNet, x: Tensor) -> dict[str, Any]:
    """What a ControlNet with random weights would add: one per skip connection, one for the middle."""
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
    """Another control image for the edit than for the recording."""
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


# ---- configurations besides those of the cases ----------------------------------------------------------------------

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


# ---- modules that were put in ---------------------------------------------------------------------------------------


class Conv(nn.Conv2d):
    """A subclass may do anything in its forward."""


class WithGain(nn.Module):
    """A layer of a newer library, wrapped around one of ours."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.gain = nn.Parameter(torch.ones(()))


def replace(path: str, make: Callable[[nn.Module], nn.Module]) -> Callable[[nn.Module], None]:
    """Puts another module in the place of the one at `path`."""

    def change(model: nn.Module) -> None:
        parent, _, name = path.rpartition(".")
        model.get_submodule(parent)._modules[name] = make(model.get_submodule(path))

    return change


def add(path: str, name: str, module: nn.Module) -> Callable[[nn.Module], None]:
    return lambda model: model.get_submodule(path).add_module(name, module)


def conv(kind: type[nn.Conv2d] = nn.Conv2d, **options: Any) -> Callable[[nn.Module], nn.Module]:
    return lambda old: kind(old.in_channels, old.out_channels, 3, **{"padding": 1, **options})


def downsampling_resnets(old: nn.Module) -> nn.Module:
    return ResnetDownsampleBlock2D(16, 16, 64, resnet_groups=8)


SWAPPED: dict[str, tuple[Callable[[nn.Module], None], str]] = {
    "activation": (replace("mid_block.resnets.0.nonlinearity", lambda _: nn.GELU()), r"nonlinearity \(.*GELU\)"),
    "last activation": (replace("conv_act", lambda _: nn.ReLU()), r"unet\.conv_act \(.*ReLU\)"),
    "dilated convolution": (
        replace("up_blocks.0.resnets.1.conv2", conv(dilation=2, padding=2)),
        r"unet\.up_blocks\.0\.resnets\.1\.conv2 \(.*Conv2d\).*\(2, 2\)",
    ),
    "grouped convolution": (replace("conv_out", lambda _: nn.Conv2d(16, 4, 3, padding=1, groups=2)), r"conv_out \("),
    "circular padding": (
        replace("mid_block.resnets.0.conv1", conv(padding_mode="circular")),
        r"resnets\.0\.conv1 \(.*circular",
    ),
    "subclass of a convolution": (
        replace("mid_block.resnets.0.conv1", conv(Conv)),
        r"mid_block\.resnets\.0\.conv1 \(.*test_adapters\.Conv\)",
    ),
    "another norm": (replace("conv_norm_out", lambda _: nn.BatchNorm2d(16)), r"unet\.conv_norm_out \(.*BatchNorm2d\)"),
    "another layer norm": (
        replace("mid_block.attentions.0.transformer_blocks.0.norm2", lambda _: nn.RMSNorm(32)),
        r"transformer_blocks\.0\.norm2 \(.*RMSNorm\)",
    ),
    "wrapped linear": (
        replace("mid_block.attentions.0.transformer_blocks.0.attn1.to_q", WithGain),
        r"transformer_blocks\.0\.attn1\.to_q \(.*WithGain\)",
    ),
    "wrapped block": (replace("mid_block", WithGain), r"unet\.mid_block \(.*WithGain\).*UNetMidBlock2DCrossAttn"),
    "another block": (
        replace("down_blocks.0", downsampling_resnets),
        r"unet\.down_blocks\.0 \(.*ResnetDownsampleBlock2D\)",
    ),
    "another feed-forward": (
        replace("mid_block.attentions.0.transformer_blocks.0.ff", lambda _: nn.Linear(32, 32)),
        r"transformer_blocks\.0\.ff \(.*Linear\)",
    ),
    "extra module": (add("mid_block", "extra", nn.Linear(4, 4)), r"unet\.mid_block\.extra \(.*Linear\).*leave it out"),
    "extra module deep inside": (
        add("down_blocks.1.attentions.0.transformer_blocks.0.attn1", "extra", nn.Conv2d(4, 4, 1)),
        r"unet\.down_blocks\.1\.attentions\.0\.transformer_blocks\.0\.attn1\.extra \(.*Conv2d\)",
    ),
}


@pytest.mark.parametrize(("change", "message"), SWAPPED.values(), ids=SWAPPED)
def test_a_module_that_is_not_known_is_refused_at_enable(change: Callable[[nn.Module], None], message: str) -> None:
    unet = sdxl_base()
    change(unet)
    with pytest.raises(UnsupportedError, match=message):
        sige.enable(unet)


UNSEEN = {
    "dropout": "mid_block.resnets.0.dropout",
    "dropout after attention": "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.1",
    "dropout in the feed-forward": "mid_block.attentions.0.transformer_blocks.0.ff.net.1",
}


@pytest.mark.parametrize("path", UNSEEN.values(), ids=UNSEEN)
def test_a_module_without_weights_that_is_not_known_is_refused_at_enable(path: str) -> None:
    unet = sdxl_base()
    replace(path, lambda _: nn.Tanh())(unet)
    with pytest.raises(UnsupportedError, match="Tanh"):
        sige.enable(unet)


def test_a_weight_that_is_not_known_is_refused_at_enable() -> None:
    unet = sdxl_base()
    unet.mid_block.register_parameter("gate", nn.Parameter(torch.ones(1)))
    with pytest.raises(UnsupportedError, match=r"unet\.mid_block \("):
        sige.enable(unet)


VAE_SWAPPED: dict[str, tuple[Callable[[nn.Module], None], str]] = {
    "encoder": (replace("encoder.mid_block.resnets.0.conv1", conv(dilation=2, padding=2)), r"vae\.encoder\.mid_block"),
    "decoder": (add("decoder.up_blocks.0", "extra", nn.Linear(4, 4)), r"vae\.decoder\.up_blocks\.0\.extra \(.*Linear"),
    "activation": (replace("decoder.conv_act", lambda _: nn.GELU()), r"vae\.decoder\.conv_act \(.*GELU"),
    "block": (replace("encoder.down_blocks.1", WithGain), r"vae\.encoder\.down_blocks\.1 \(.*WithGain"),
}


@pytest.mark.parametrize(("change", "message"), VAE_SWAPPED.values(), ids=VAE_SWAPPED)
def test_a_module_of_a_vae_that_is_not_known_is_refused_at_enable(
    change: Callable[[nn.Module], None], message: str
) -> None:
    model = vae()
    change(model)
    with pytest.raises(UnsupportedError, match=message):
        sige.enable(model)


# ---- attention processors, tiles, and what enable() takes -----------------------------------------------------------


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
    """As FreeU is: otherwise the last tile or slice is recorded, and read as if it were the image."""
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
