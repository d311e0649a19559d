"""The models to profile: built from `configs/`, on the meta device or with random weights, each with random inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sige.config_files import load_config
from sige.profiling.macs import ProfilingError

__all__ = ["MODELS", "Subject", "build"]

UNETS = ("sdxl-base", "sdxl-refiner", "sdxl-inpaint", "sd15", "sd21")
CODERS = {"vae-encoder": "encoder", "vae-decoder": "decoder"}
MODELS = (*UNETS, *CODERS)

LATENT_SCALE = 8  # pixels per latent position, along each side


@dataclass(frozen=True)
class Subject:
    """A component with the arguments of one call."""

    name: str
    target: nn.Module  # the module that sige.enable() takes
    module: nn.Module  # the module that is called: the target itself, or the VAE's encoder or decoder
    size: tuple[int, int]  # of the image
    batch: int
    levels: tuple[tuple[int, int], ...]  # the sizes at which layers work, the largest first
    sample: Tensor  # [B, C, H, W]
    arguments: dict[str, Any] = field(default_factory=dict)

    def __call__(self) -> Any:
        """Calls the module as a user does; once the target is enabled, the call goes through SIGE."""
        return self.module(self.sample, **self.arguments)

    def dense(self, sample: Tensor) -> Any:
        """Calls diffusers' own forward, also while the target is enabled."""
        return type(self.module).forward(self.module, sample, **self.arguments)


def build(
    name: str,
    size: tuple[int, int],
    batch: int | None = None,
    *,
    device: torch.device | str = "meta",
    dtype: torch.dtype = torch.float32,
    changes: Mapping[str, Any] | None = None,
) -> Subject:
    """The named model with random weights and inputs; on the meta device it takes a second and no memory.

    `batch` is 2 for a UNet (classifier-free guidance) and 1 for a VAE unless given. `changes` replaces settings of the
    model's shape, to make a narrower one for tests.
    """
    if name not in MODELS:
        raise ProfilingError(f"model: got {name!r}, expected one of {', '.join(MODELS)}")
    if min(size) < LATENT_SCALE or size[0] % LATENT_SCALE or size[1] % LATENT_SCALE:
        raise ProfilingError(f"size: got {size[0]}x{size[1]}, expected multiples of {LATENT_SCALE}")
    batch = batch if batch is not None else 2 if name in UNETS else 1
    if batch < 1:
        raise ProfilingError(f"batch: got {batch}, expected at least 1")
    make = _make_unet if name in UNETS else _make_coder
    with _fresh(torch.device(device), dtype):
        return make(name, size, batch, changes or {})


@contextmanager
def _fresh(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Makes new tensors on the device, in the dtype, from a fixed seed; the caller's random numbers do not change."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.random.fork_rng(), torch.device(device), torch.no_grad():
            torch.manual_seed(0)
            yield
    finally:
        torch.set_default_dtype(before)


def _make_unet(name: str, size: tuple[int, int], batch: int, changes: Mapping[str, Any]) -> Subject:
    from diffusers import UNet2DConditionModel

    config = load_config(name)
    shape, inputs = config["model"] | changes, config["inputs"]
    unet = UNet2DConditionModel(**shape).eval().requires_grad_(False)
    latents = (size[0] // LATENT_SCALE, size[1] // LATENT_SCALE)
    arguments: dict[str, Any] = {
        "timestep": torch.full((1,), 500.0),
        "encoder_hidden_states": torch.randn(batch, inputs["tokens"], shape["cross_attention_dim"]),
    }
    if "pooled" in inputs:
        arguments["added_cond_kwargs"] = {
            "text_embeds": torch.randn(batch, inputs["pooled"]),
            "time_ids": torch.full((batch, inputs["time_ids"]), 512.0),
        }
    sample = torch.randn(batch, shape["in_channels"], *latents)
    levels = _levels(latents, len(shape["block_out_channels"]))
    return Subject(name, unet, unet, size, batch, levels, sample, arguments)


def _make_coder(name: str, size: tuple[int, int], batch: int, changes: Mapping[str, Any]) -> Subject:
    from diffusers import AutoencoderKL

    shape = load_config("vae")["model"] | changes
    vae = AutoencoderKL(**shape).eval().requires_grad_(False)
    encodes = name == "vae-encoder"
    channels = shape["in_channels"] if encodes else shape["latent_channels"]
    source = size if encodes else (size[0] // LATENT_SCALE, size[1] // LATENT_SCALE)
    levels = _levels(size, len(shape["block_out_channels"]))
    return Subject(name, vae, getattr(vae, CODERS[name]), size, batch, levels, torch.randn(batch, channels, *source))


def _levels(size: tuple[int, int], count: int) -> tuple[tuple[int, int], ...]:
    """The sizes of `count` levels from `size` on: each is half of the one before, rounded up, as by stride 2."""
    levels = [size]
    while len(levels) < count:
        levels.append((-(-levels[-1][0] // 2), -(-levels[-1][1] // 2)))
    return tuple(levels)
