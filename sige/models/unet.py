"""UNet2DConditionModel (SDXL base, refiner, turbo, inpainting; SD 1.5 and 2.1) as a packed component."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.unets.unet_2d_blocks import (
    CrossAttnDownBlock2D,
    CrossAttnUpBlock2D,
    DownBlock2D,
    UNetMidBlock2DCrossAttn,
    UpBlock2D,
)
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor, nn

from sige.errors import UnsupportedError
from sige.geometry import Geometry
from sige.models import blocks
from sige.models.component import Role, pack
from sige.models.deepest import answered
from sige.models.walker import Walker
from sige.packed.conv import PackedConv
from sige.packed.features import Features, PackedPass
from sige.packed.resnet import ResnetBlock
from sige.packed.time import TimeTable
from sige.packed.transformer import PackedTransformer
from sige.recordings import BlendedComponent, Probe

__all__ = ["PackedUNet"]

Biases = dict[ResnetBlock, Tensor]  # [B, C] each: what the first convolution of each block adds

REFUSED_ARGUMENTS = {
    "attention_mask": "self-attention over masked positions",
    "encoder_attention_mask": "a mask over the prompt's tokens",
    "down_intrablock_additional_residuals": "a T2I-Adapter",
    "timestep_cond": "",
}


@dataclass(frozen=True)
class Stage:
    """A block of the UNet: residual blocks, each with its transformer if it has one, then a resampler."""

    resnets: list[ResnetBlock]
    transformers: list[PackedTransformer | None]
    resampler: PackedConv | None

    @property
    def probes(self) -> list[Probe]:
        parts = [*self.resnets, *self.transformers, self.resampler]
        return [probe for part in parts if part is not None for probe in part.probes]


class PackedUNet:
    """The packed counterpart of a UNet; `packed` does at the active positions what the UNet's forward does."""

    name = "unet"
    role: Role = "denoiser"

    def __init__(self, unet: UNet2DConditionModel) -> None:
        self.module = unet
        walker = Walker(self.name, unet)
        for part in ("time_proj", "time_embedding", "class_embedding", "add_embedding"):
            walker.claim_all(getattr(unet, part, None))
        projection = getattr(unet, "encoder_hid_proj", None)
        walker.require(
            unet, projection is None, "has an IP-Adapter or another projection of the prompt: unload it first"
        )
        walker.require(unet, unet.config.addition_embed_type != "image_hint", "image hints cannot run packed")
        walker.require(unet, unet.conv_norm_out is not None, "expected a norm before the last convolution")
        walker.silu(unet.conv_act)
        self.first = walker.conv(unet.conv_in, Geometry.conv3x3())
        self.down = [self._stage(walker, block, CrossAttnDownBlock2D, DownBlock2D) for block in unet.down_blocks]
        self.middle = None if unet.mid_block is None else self._stage(walker, unet.mid_block, UNetMidBlock2DCrossAttn)
        self.up = [self._stage(walker, block, CrossAttnUpBlock2D, UpBlock2D) for block in unet.up_blocks]
        self.last = walker.conv(unet.conv_out, Geometry.conv3x3(), unet.conv_norm_out)
        self.times = TimeTable([resnet for stage in self._stages() for resnet in stage.resnets])
        walker.finish()

    @staticmethod
    def _stage(walker: Walker, block: Any, *kinds: type) -> Stage:
        walker.claim(block, *kinds)
        resnets = [blocks.resnet(walker, resnet) for resnet in block.resnets]
        attentions = list(getattr(block, "attentions", []))
        transformers: list[PackedTransformer | None] = [
            blocks.transformer(walker, attention) for attention in attentions
        ]
        if isinstance(block, UNetMidBlock2DCrossAttn):
            transformers.insert(0, None)  # resnet, then (transformer, resnet) ...
        transformers += [None] * (len(resnets) - len(transformers))
        downsamplers, upsamplers = (list(getattr(block, name, None) or []) for name in ("downsamplers", "upsamplers"))
        resamplers = [blocks.downsampler(walker, part) for part in downsamplers] + [
            blocks.upsampler(walker, part) for part in upsamplers
        ]
        walker.require(block, len(resamplers) <= 1, "expected at most one resampler")
        return Stage(resnets, transformers, resamplers[0] if resamplers else None)

    def _stages(self) -> list[Stage]:
        return [*self.down, *([self.middle] if self.middle else []), *self.up]

    def probes(self) -> list[Probe]:
        return [*self.first.probes, *(probe for stage in self._stages() for probe in stage.probes), *self.last.probes]

    def regions(self) -> list[nn.Module]:
        return blocks.regions(self.module)

    # ---- arguments of forward ---------------------------------------------------------------------------------------

    def sample(self, arguments: dict[str, Any]) -> Tensor:  # [B, C, H, W]
        return arguments["sample"]  # type: ignore[no-any-return]

    def with_sample(
        self,
        arguments: dict[str, Any],
        sample: Tensor,  # [B, C, H, W]
    ) -> dict[str, Any]:
        return {**arguments, "sample": sample}

    def text(self, arguments: dict[str, Any]) -> Tensor | None:  # [B, tokens, C]
        return arguments["encoder_hidden_states"]  # type: ignore[no-any-return]

    def check(self, arguments: dict[str, Any]) -> None:
        for name, what in REFUSED_ARGUMENTS.items():
            if what and arguments.get(name) is not None:
                raise UnsupportedError(f"unet: {name} is given, and {what} cannot run packed: leave it out")
        residuals, middle = (
            arguments.get(name) is not None
            for name in ("down_block_additional_residuals", "mid_block_additional_residual")
        )
        if residuals != middle:
            raise UnsupportedError("unet: a T2I-Adapter cannot run packed; a ControlNet passes both kinds of residuals")
        extra = arguments.get("cross_attention_kwargs") or {}
        odd = sorted(name for name, value in extra.items() if name != "scale" or value not in (None, 1.0))
        if odd:
            raise UnsupportedError(
                f"unet: cross_attention_kwargs has {', '.join(odd)}, which cannot run packed: leave it out "
                "(a LoRA gets its weight from set_adapters() instead of scale)"
            )
        for block in self.module.up_blocks:
            if any(getattr(block, name, None) for name in ("s1", "s2", "b1", "b2")):
                raise UnsupportedError("unet: FreeU is on and cannot run packed: call disable_freeu() first")

    # ---- a dense pass of the outer levels ---------------------------------------------------------------------------

    def has_outer(self, arguments: dict[str, Any]) -> bool:
        """A ControlNet adds to features of every level, also to those that would be left out."""
        return len(self.module.up_blocks) > 1 and arguments["down_block_additional_residuals"] is None

    def without_deepest(self, forecast: BlendedComponent, sample: Tensor) -> AbstractContextManager[None]:
        """The deepest level, its last block included, which enlarges: its output is the first input of the next."""
        unet = self.module
        last, after = unet.up_blocks[0], "up_blocks.1.resnets.0.norm1"
        channels = last.resnets[-1].out_channels
        height, width = (-(-side >> len(unet.up_blocks) - 2) for side in sample.shape[2:])
        rows = forecast.rows(after)[:, :, :channels]  # [B, height * width, channels]
        given = rows.transpose(1, 2).unflatten(2, (height, width)).contiguous(memory_format=torch.channels_last)
        return answered(unet.down_blocks[-1], unet.mid_block, last, given)

    def wrap(self, output: Tensor, arguments: dict[str, Any]) -> Any:  # [B, C_out, H, W]
        return UNet2DConditionOutput(sample=output) if arguments["return_dict"] else (output,)

    # ---- the packed pass --------------------------------------------------------------------------------------------

    def packed(self, arguments: dict[str, Any], packed_pass: PackedPass) -> Tensor:  # [B, N, C_out]
        unet = self.module
        sample: Tensor = arguments["sample"]
        biases = self.times(F.silu(self._embedding(arguments)))
        if unet.config.center_input_sample:
            sample = 2 * sample - 1.0
        x = self.first(pack(sample, packed_pass.layout), packed_pass)
        skips = [x]
        for stage in self.down:
            x = self._down(stage, x, skips, biases, packed_pass)
        skips = self._controlled(skips, arguments["down_block_additional_residuals"], packed_pass)
        if self.middle is not None:
            x = self._blocks(self.middle, x, biases, packed_pass, middle=True)
        x = self._controlled([x], [arguments["mid_block_additional_residual"]], packed_pass)[0]
        for stage in self.up:
            x = self._up(stage, x, skips, biases, packed_pass)
        return self.last(x, packed_pass).rows

    def _embedding(self, arguments: dict[str, Any]) -> Tensor:  # [B, E]
        """The embedding of the time and the micro-conditioning, by the model's own methods."""
        unet, sample = self.module, arguments["sample"]
        time = unet.get_time_embed(sample=sample, timestep=arguments["timestep"])
        embedding = unet.time_embedding(time, arguments["timestep_cond"])
        labels = unet.get_class_embed(sample=sample, class_labels=arguments["class_labels"])
        if labels is not None:
            concat = unet.config.class_embeddings_concat
            embedding = torch.cat([embedding, labels], dim=-1) if concat else embedding + labels
        added = unet.get_aug_embed(
            emb=embedding,
            encoder_hidden_states=arguments["encoder_hidden_states"],
            added_cond_kwargs=arguments["added_cond_kwargs"],
        )
        embedding = embedding if added is None else embedding + added
        return embedding if unet.time_embed_act is None else unet.time_embed_act(embedding)  # type: ignore[no-any-return]

    def _blocks(
        self, stage: Stage, x: Features, biases: Biases, packed_pass: PackedPass, middle: bool = False
    ) -> Features:
        for resnet, transformer in zip(stage.resnets, stage.transformers, strict=True):
            if middle and transformer is not None:
                x = transformer(x, packed_pass)
            x = resnet(x, packed_pass, biases.get(resnet))
            if not middle and transformer is not None:
                x = transformer(x, packed_pass)
        return x

    def _down(
        self, stage: Stage, x: Features, skips: list[Features], biases: Biases, packed_pass: PackedPass
    ) -> Features:
        for resnet, transformer in zip(stage.resnets, stage.transformers, strict=True):
            x = self._blocks(Stage([resnet], [transformer], None), x, biases, packed_pass)
            skips.append(x)
        if stage.resampler is not None:
            x = stage.resampler(x, packed_pass)
            skips.append(x)
        return x

    def _up(
        self, stage: Stage, x: Features, skips: list[Features], biases: Biases, packed_pass: PackedPass
    ) -> Features:
        for resnet, transformer in zip(stage.resnets, stage.transformers, strict=True):
            joined = Features(torch.cat([x.rows, skips.pop().rows], dim=2), x.size)
            x = self._blocks(Stage([resnet], [transformer], None), joined, biases, packed_pass)
        if stage.resampler is not None:
            x = stage.resampler(x, packed_pass, upsample_size=skips[-1].size)
        return x

    @staticmethod
    def _controlled(
        features: list[Features], residuals: Sequence[Tensor | None] | None, packed_pass: PackedPass
    ) -> list[Features]:
        """Adds a ControlNet's residuals at the active positions."""
        if residuals is None:
            return features
        return [
            x if residual is None else Features(x.rows + pack(residual, packed_pass.layout).rows, x.size)
            for x, residual in zip(features, residuals, strict=True)
        ]
