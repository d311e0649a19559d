"""AutoencoderKL's encoder and decoder as packed components."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import Decoder, Encoder
from diffusers.models.unets.unet_2d_blocks import DownEncoderBlock2D, UNetMidBlock2D, UpDecoderBlock2D
from torch import Tensor, nn

from sige.errors import UnsupportedError
from sige.geometry import Geometry
from sige.models import blocks
from sige.models.component import Role, pack
from sige.models.walker import Walker
from sige.packed.conv import PackedConv
from sige.packed.features import PackedPass
from sige.packed.resnet import AttentionBlock, ResnetBlock
from sige.recordings import BlendedComponent, Probe

__all__ = ["PackedCoder"]

Layer = PackedConv | ResnetBlock | AttentionBlock


class PackedCoder:
    """The packed counterpart of an encoder or a decoder: a chain of layers without skip connections."""

    role: Role = "coder"

    def __init__(self, name: str, coder: Encoder | Decoder, vae: AutoencoderKL) -> None:
        check_whole(vae)
        self.name = name
        self.module = coder
        self.vae = vae
        walker = Walker(name, coder)
        walker.silu(coder.conv_act)
        first = walker.conv(coder.conv_in, Geometry.conv3x3())
        middle = self._middle(walker, coder.mid_block)
        last = walker.conv(coder.conv_out, Geometry.conv3x3(), coder.conv_norm_out)
        if isinstance(coder, Encoder):
            down = [layer for block in coder.down_blocks for layer in self._down(walker, block)]
            self.layers: list[Layer] = [first, *down, *middle, last]
        else:
            up = [layer for block in coder.up_blocks for layer in self._up(walker, block)]
            self.layers = [first, *middle, *up, last]
        walker.finish()

    @staticmethod
    def _middle(walker: Walker, block: Any) -> list[Layer]:
        walker.claim(block, UNetMidBlock2D)
        layers: list[Layer] = [blocks.resnet(walker, block.resnets[0])]
        for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
            if attention is not None:
                layers.append(blocks.attention_block(walker, attention))
            layers.append(blocks.resnet(walker, resnet))
        return layers

    @staticmethod
    def _down(walker: Walker, block: Any) -> list[Layer]:
        walker.claim(block, DownEncoderBlock2D)
        samplers = [blocks.downsampler(walker, sampler) for sampler in block.downsamplers or []]
        return [*(blocks.resnet(walker, resnet) for resnet in block.resnets), *samplers]

    @staticmethod
    def _up(walker: Walker, block: Any) -> list[Layer]:
        walker.claim(block, UpDecoderBlock2D)
        samplers = [blocks.upsampler(walker, sampler) for sampler in block.upsamplers or []]
        return [*(blocks.resnet(walker, resnet) for resnet in block.resnets), *samplers]

    def probes(self) -> list[Probe]:
        return [probe for layer in self.layers for probe in layer.probes]

    def regions(self) -> list[nn.Module]:
        return blocks.regions(self.module)

    def sample(self, arguments: dict[str, Any]) -> Tensor:  # [B, C, H, W]
        return arguments["sample"]  # type: ignore[no-any-return]

    def with_sample(
        self,
        arguments: dict[str, Any],
        sample: Tensor,  # [B, C, H, W]
    ) -> dict[str, Any]:
        return {**arguments, "sample": sample}

    def text(self, arguments: dict[str, Any]) -> Tensor | None:
        return None

    def check(self, arguments: dict[str, Any]) -> None:
        check_whole(self.vae)
        if arguments.get("latent_embeds") is not None:
            raise UnsupportedError(f"{self.name}: latent_embeds is given and cannot run packed: leave it out")

    def has_outer(self, arguments: dict[str, Any]) -> bool:
        return False

    def without_deepest(self, forecast: BlendedComponent, sample: Tensor) -> AbstractContextManager[None]:
        raise UnsupportedError(f"{self.name}: only a denoiser can leave out its deepest level")

    def packed(self, arguments: dict[str, Any], packed_pass: PackedPass) -> Tensor:  # [B, N, C_out]
        x = pack(arguments["sample"], packed_pass.layout)
        for layer in self.layers:
            x = layer(x, packed_pass)
        return x.rows

    def wrap(self, output: Tensor, arguments: dict[str, Any]) -> Tensor:  # [B, C_out, H_out, W_out]
        return output


def check_whole(vae: AutoencoderKL) -> None:
    """Refuses a VAE that works in tiles or slices, because each would be recorded as if it were the whole picture."""
    for flag, method in (("use_tiling", "disable_tiling"), ("use_slicing", "disable_slicing")):
        if getattr(vae, flag, False):
            raise UnsupportedError(f"vae: {flag} is on and cannot run packed: call vae.{method}() first")
