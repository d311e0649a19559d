"""Work: the multiply-accumulates of an edit, attention counted, from its passes and the shapes of its models.

Each dense pass is counted once per size, each packed pass once per size and region; the work of an edit is their sum.
Counting runs on the meta device, where no value is computed, on models without weights, which are built from the
configurations of the edit's models.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor, nn

import sige
from sdxl.edits.sparse import PassesByComponent
from sige import tome
from sige.profiling import count_macs
from sige.recordings import Blend
from sige.sizes import Size

__all__ = ["EditWork", "PipelineShape"]

TOKENS = 77  # of a prompt of one window
CODERS = ("encoder", "decoder")
LEVELS = (1, 2, 4, 8, 16, 32, 64)  # pixels that a position is wide, at the levels where models work


@dataclass(frozen=True)
class PipelineShape:
    """The classes and configurations of a pipeline's UNet and VAE, and what the UNet reads of a prompt."""

    unet: tuple[type, str]  # the class, and its configuration as JSON
    vae: tuple[type, str]
    pooled: int
    tokens: int = TOKENS  # that the UNet reads of each prompt
    merging: tome.Merging | None = None  # of tokens, in the UNet's dense passes

    @classmethod
    def of(cls, pipe: Any, tokens: int = TOKENS) -> PipelineShape:
        """The shapes of a pipeline's models."""
        second = getattr(pipe, "text_encoder_2", None)
        pooled = 0 if second is None else second.config.projection_dim
        return cls(_shape(pipe.unet), _shape(pipe.vae), pooled, tokens, tome.applied(pipe.unet))


@dataclass(frozen=True, eq=False)
class EditWork:
    """The work of one edit's passes, and that of the same edit where all passes are dense."""

    shapes: Mapping[str, PipelineShape]  # by the prefix of the components' names: "", "refiner."
    size: Size  # of the picture that the models worked on
    region: sige.Region
    is_guided: bool
    passes: PassesByComponent
    dense_passes: Mapping[str, int]  # by component, of the dense edit
    dense_size: Size | None = None  # of the dense edit's picture, where it differs
    decode_region: sige.Region | None = None  # of the decoder, where it differs

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of the edit."""
        total = 0
        for name, passes in self.passes.items():
            counts, part = self._counts(name)
            region = self.decode_region or self.region if part == "vae.decoder" else self.region
            total += passes.dense * counts.dense(part, self.size)
            if passes.packed:
                packed = counts.packed(part, self.size, region)
                total += passes.packed * packed + counts.prompt(part, self.size)
            total += passes.outer * counts.outer(part, self.size) if passes.outer else 0
            if passes.half:
                packed = counts.packed(part, self.size, self.region) + counts.prompt(part, self.size)
                total += passes.half * (counts.dense(part, self.size) + packed) // 2
        return total

    @cached_property
    def dense_macs(self) -> int:
        """Multiply-accumulates of the same edit with dense passes alone, in which no tokens merge."""
        total = 0
        for name, passes in self.dense_passes.items():
            counts, part = self._counts(name, plain=True)
            total += passes * counts.dense(part, self.dense_size or self.size)
        return total

    @property
    def share(self) -> float:
        """The edit's multiply-accumulates as a share of the dense edit's; 0 where nothing ran."""
        return self.macs / self.dense_macs if self.dense_macs else 0.0

    def _counts(self, name: str, plain: bool = False) -> tuple[_Counts, str]:
        """The counts of the pipeline that a component belongs to, and the component's name without the prefix."""
        prefix = next((prefix for prefix in self.shapes if prefix and name.startswith(prefix)), "")
        shape = self.shapes[prefix]
        shape = replace(shape, merging=None) if plain else shape
        return _counts_of(shape, self.is_guided), name.removeprefix(prefix)


@lru_cache(maxsize=8)
def _counts_of(shape: PipelineShape, guided: bool) -> _Counts:
    return _Counts(shape, 2 if guided else 1)


class _Counts:
    """The multiply-accumulates of one pass, for each component, size and region of a pipeline's shapes."""

    def __init__(self, shape: PipelineShape, batch: int) -> None:
        self._pooled, self._batch, self._tokens = shape.pooled, batch, shape.tokens
        self._unet, self._vae = _built(*shape.unet), _built(*shape.vae)
        if shape.merging is not None:
            tome.apply(self._unet, **asdict(shape.merging))
        self._cell = 2 ** (len(self._vae.config.block_out_channels) - 1)  # pixels a latent
        self._dense: dict[tuple[str, Size], int] = {}
        self._packed: dict[tuple[str, Size, str], int] = {}
        self._recorded: dict[tuple[str, Size], _Recorded] = {}

    def dense(self, name: str, size: Size) -> int:
        """The work of a dense pass over a picture of that size."""
        if (name, size) not in self._dense:
            self._dense[name, size] = self._part(name, size).count()
        return self._dense[name, size]

    def packed(self, name: str, size: Size, region: sige.Region) -> int:
        """The work of a packed pass over a region, without the keys and values of the prompt."""
        key = name, size, _digest(region)
        if key not in self._packed:
            self._packed[key] = self._on_recording(name, size).packed(region)
        return self._packed[key]

    def outer(self, name: str, size: Size) -> int:
        """The work of a dense pass that leaves out the deepest level."""
        return self._on_recording(name, size).outer

    def prompt(self, name: str, size: Size) -> int:
        """The work of the prompt's keys and values, which only the first packed pass computes."""
        return self._on_recording(name, size).prompt if name == "unet" else 0

    def _on_recording(self, name: str, size: Size) -> _Recorded:
        if (name, size) not in self._recorded:
            target = self._unet if name == "unet" else self._vae
            self._recorded[name, size] = _Recorded(self._part(name, size), target, size)
        return self._recorded[name, size]

    def _part(self, name: str, size: Size) -> _Part:
        height, width = size[0] // self._cell, size[1] // self._cell
        if name == "unet":
            sample = _empty(self._batch, self._unet.config.in_channels, height, width)
            return _Part(self._unet, sample, self._arguments())
        config, coder = self._vae.config, name.removeprefix("vae.")
        shape = (config.in_channels, *size) if coder == "encoder" else (config.latent_channels, height, width)
        return _Part(getattr(self._vae, coder), _empty(1, *shape), {})

    def _arguments(self) -> dict[str, Any]:
        config, b = self._unet.config, self._batch
        arguments: dict[str, Any] = {
            "timestep": _empty(1),
            "encoder_hidden_states": _empty(b, self._tokens, config.cross_attention_dim),
        }
        if config.addition_embed_type == "text_time":
            times = (config.projection_class_embeddings_input_dim - self._pooled) // config.addition_time_embed_dim
            added = {"text_embeds": _empty(b, self._pooled), "time_ids": _empty(b, times)}
            arguments["added_cond_kwargs"] = added
        return arguments


class _Part:
    """A component on the meta device with the arguments of one call."""

    def __init__(self, module: nn.Module, sample: Tensor, arguments: dict[str, Any]) -> None:  # [B, C, h, w]
        self.module, self.sample, self._arguments = module, sample, arguments

    @torch.no_grad()
    def count(self) -> int:
        """The multiply-accumulates of one call."""
        with count_macs(self.module) as macs:
            self.module(self.sample, **self._arguments)
        return macs.all


class _Recorded:
    """A component with one recording, on which packed passes of any region are counted."""

    def __init__(self, part: _Part, target: nn.Module, size: Size) -> None:
        self._part = part
        self._handle = sige.enable(target)
        with self._handle.record() as self._recording:
            part.count()
        everything = sige.Region.full(*size)
        first = self.packed(everything)
        self.prompt = first - self.packed(everything)

    @cached_property
    def outer(self) -> int:
        component = self._handle.components["unet"]
        forecast = Blend.of([(self._recording, 1.0)]).component("unet")
        with component.without_deepest(forecast, self._part.sample):
            return self._part.count()

    def packed(self, region: sige.Region) -> int:
        with self._handle.edit(region, blend=[(self._recording, 1.0)]):
            return self._part.count()


def _shape(model: Any) -> tuple[type, str]:
    model = getattr(model, "_orig_mod", model)  # what torch.compile has wrapped
    return type(model), json.dumps(dict(model.config), sort_keys=True, default=str)


def _built(kind: Any, config: str) -> Any:
    with torch.device("meta"):
        return kind.from_config(json.loads(config)).eval().requires_grad_(False)


def _digest(region: sige.Region) -> str:
    """A digest: equal for regions that are active at the same positions of every level."""
    height, width = region.image_size
    content = hashlib.sha256()
    for cell in LEVELS:
        content.update(region.active(-(-height // cell), -(-width // cell)).tobytes())
    return content.hexdigest()


def _empty(*shape: int) -> Tensor:
    return torch.empty(*shape, device="meta")
