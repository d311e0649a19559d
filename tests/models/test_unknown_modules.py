"""Foreign modules inside a model: refused by path and class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d_blocks import ResnetDownsampleBlock2D
from torch import nn

import sige
from sige import UnsupportedError
from tests.models.tiny import sdxl_base, vae


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
        r"mid_block\.resnets\.0\.conv1 \(.*test_unknown_modules\.Conv\)",
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
