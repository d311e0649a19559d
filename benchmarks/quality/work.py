"""Multiply-accumulates of an edit, attention counted: of its UNet and VAE passes, on the meta device.

A pass is counted once per size, a packed one once per region; the rest is sums. Counted is what the pipelines really
run: a UNet with the mask's channels reads the masked picture, another one the picture.
"""

from __future__ import annotations

from copy import deepcopy
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

import sige
from benchmarks.quality.metrics import Mask
from sdxl.pictures.masks import latent_cells
from sige.policies import NEARLY_ALL
from sige.profiling import count_macs
from sige.schedule import dense_steps
from sige.sizes import Size

__all__ = ["Work", "region_of", "unet_passes"]

CELL, TOKENS = 8, 77  # pixels a latent, tokens a prompt


def region_of(mask: Mask, dilation: int) -> sige.Region:  # [H, W]
    """The region that `sdxl.edit` makes of the mask."""
    return sige.Region.from_mask(latent_cells(mask.astype("float32")), dilation=dilation)


def unet_passes(config: sige.EditConfig, region: sige.Region, steps: int) -> tuple[int, int]:
    """How many UNet passes of an edit run dense, and how many packed."""
    if config.policy == "lockstep":
        return steps, steps
    height, width = region.image_size
    if region.ratio(height // CELL, width // CELL) >= NEARLY_ALL:
        return steps, 0
    dense = len(dense_steps(steps, config))
    return dense, steps - dense


class Work:
    """Counts for one pipeline."""

    def __init__(self, pipe: Any, size: Size, *, steps: int, guided: bool) -> None:
        self.steps = steps
        self.size = size
        self._batch = 2 if guided else 1
        self._unet, self._vae = (deepcopy(model).to("meta") for model in (pipe.unet, pipe.vae))
        self._dense: dict[Size, tuple[int, int, int]] = {}
        self._packed: dict[tuple[bytes, int], int] = {}
        self._decoded: dict[tuple[bytes, int], int] = {}

    def dense(self, size: Size) -> int:
        """A dense edit of a picture of that size."""
        unet, encoder, decoder = self._passes(size)
        return self.steps * unet + self._encodings(False) * encoder + decoder

    def sparse(self, mask: Mask, config: sige.EditConfig) -> int:  # [H, W]
        """A sparse edit; in lockstep the original is decoded dense, and the result packed on it."""
        region, key = region_of(mask, config.dilates_by), (mask.tobytes(), config.dilates_by)
        unet, encoder, decoder = self._passes(self.size)
        dense, packed = unet_passes(config, region, self.steps)
        total = dense * unet + decoder
        if packed:
            if key not in self._packed:
                self._packed[key] = self._recorded_unet.packed(region)
            total += packed * self._packed[key] + self._recorded_unet.text
        lockstep = config.policy == "lockstep"
        if lockstep:
            if key not in self._decoded:
                self._decoded[key] = self._recorded_decoder.packed(region)
            total += self._decoded[key]
        return total + self._encodings(lockstep) * encoder

    def _encodings(self, lockstep: bool) -> int:
        """How often the encoder runs; lockstep encodes the picture, and a wide UNet's pipeline the masked one."""
        wide = bool(self._unet.config.in_channels != self._vae.config.latent_channels)  # with the mask's channels
        return 2 if wide and lockstep else 1

    def _passes(self, size: Size) -> tuple[int, int, int]:
        """A dense pass each of UNet, encoder and decoder."""
        if size not in self._dense:
            parts = (self._unet_part(size), self._coder_part("encoder", size), self._coder_part("decoder", size))
            self._dense[size] = parts[0].dense(), parts[1].dense(), parts[2].dense()
        return self._dense[size]

    @cached_property
    def _recorded_unet(self) -> _Recorded:
        return _Recorded(self._unet_part(self.size), self._unet, self.size)

    @cached_property
    def _recorded_decoder(self) -> _Recorded:
        return _Recorded(self._coder_part("decoder", self.size), self._vae, self.size)

    def _unet_part(self, size: Size) -> _Part:
        config, b = self._unet.config, self._batch
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        arguments = {
            "timestep": _empty(1),
            "encoder_hidden_states": _empty(b, TOKENS, config.cross_attention_dim),
            "added_cond_kwargs": {"text_embeds": _empty(b, pooled), "time_ids": _empty(b, 6)},
        }
        return _Part(self._unet, _empty(b, config.in_channels, size[0] // CELL, size[1] // CELL), arguments)

    def _coder_part(self, name: str, size: Size) -> _Part:
        config = self._vae.config
        latents = (config.latent_channels, size[0] // CELL, size[1] // CELL)
        shape = (config.in_channels, *size) if name == "encoder" else latents
        return _Part(getattr(self._vae, name), _empty(1, *shape), {})


class _Part:
    """A component on the meta device with one call's arguments."""

    def __init__(self, module: nn.Module, sample: Tensor, arguments: dict[str, Any]) -> None:  # [B, C, h, w]
        self.module, self._sample, self._arguments = module, sample, arguments

    @torch.no_grad()
    def __call__(self) -> None:
        self.module(self._sample, **self._arguments)

    def dense(self) -> int:
        with count_macs(self.module) as macs:
            self()
        return macs.all


class _Recorded:
    """A component that was recorded once, to count packed passes for one region after another."""

    def __init__(self, part: _Part, target: nn.Module, size: Size) -> None:
        self._part, self._handle = part, sige.enable(target)
        with self._handle.record():
            part()
        everything = sige.Region.full(*size)
        first = self.packed(everything)
        self.text = first - self.packed(everything)  # keys and values of the prompt, once an edit

    def packed(self, region: sige.Region) -> int:
        with self._handle.edit(region):
            return self._part.dense()


def _empty(*shape: int) -> Tensor:
    return torch.empty(*shape, device="meta")
