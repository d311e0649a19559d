"""Tiny but real diffusers models with random weights; a `Case` is one of them with its conditioning."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from sige import Region
from tests.models import devices

__all__ = [
    "CASES",
    "Case",
    "every_case",
    "every_layout",
    "make_case",
    "new_case",
    "randomise",
    "sd15",
    "sd21",
    "sdxl_base",
    "sdxl_inpainting",
    "sdxl_refiner",
    "vae",
]

TOKENS, POOLED = 7, 16
SCALE = 8  # pixels per latent position; the tiny VAE has four levels as the real one


# ---- models ---------------------------------------------------------------------------------------------------------


def randomise(model: nn.Module, seed: int) -> None:
    """Gives the model random weights with unit gain. None is zero or one, so a test sees a forgotten bias or norm."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        mean = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        spread = 0.4 if parameter.dim() < 2 else parameter[0].numel() ** -0.5
        with torch.no_grad():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread + mean)


def _unet(seed: int, **config: Any) -> UNet2DConditionModel:
    shared = {"in_channels": 4, "out_channels": 4, "norm_num_groups": 8, "cross_attention_dim": 24}
    unet = UNet2DConditionModel(**{**shared, **config}).eval()
    randomise(unet, seed)
    return unet


def _text_time(time_ids: int) -> dict[str, Any]:
    return {
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 8 * time_ids + POOLED,
    }


def sdxl_base(seed: int = 1, **changes: Any) -> UNet2DConditionModel:
    """SDXL base; turbo has the same configuration."""
    config = {
        "block_out_channels": (16, 32, 32),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 2),
        "attention_head_dim": (2, 2, 4),
        **_text_time(6),
    }
    return _unet(seed, **{**config, **changes})


def sdxl_inpainting(seed: int = 2) -> UNet2DConditionModel:
    """SDXL inpainting: latents, mask and masked image side by side."""
    return sdxl_base(seed, in_channels=9)


def sdxl_refiner(seed: int = 3) -> UNet2DConditionModel:
    """SDXL refiner: four levels, attention in the middle two, five numbers of micro-conditioning."""
    return _unet(
        seed,
        block_out_channels=(16, 32, 32, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=2,
        attention_head_dim=(2, 2, 4, 4),
        **_text_time(5),
    )


def sd15(seed: int = 4, **changes: Any) -> UNet2DConditionModel:
    """SD 1.5: four levels, 1x1 convolutions as projections, no conditioning besides the prompt."""
    config = {"block_out_channels": (16, 32, 32, 32), "attention_head_dim": 2}
    return _unet(seed, **{**config, **changes})


def sd21(seed: int = 5) -> UNet2DConditionModel:
    """SD 2.1: as 1.5, with linear projections and heads of one size."""
    return sd15(seed, use_linear_projection=True, attention_head_dim=(2, 4, 4, 4), upcast_attention=True)


def vae(seed: int = 6, **changes: Any) -> AutoencoderKL:
    """The VAE that all UNets share."""
    config = {
        "block_out_channels": (8, 16, 16, 32),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 1,
        "latent_channels": 4,
        # Two channels a group at least: PyTorch's channels-last GroupNorm on the CPU takes E[x^2] - E[x]^2 in fp32, and
        # where the mean of a group of one channel is far from zero, the *dense* result is off by more than 1e-5.
        "norm_num_groups": 4,
    }
    model = AutoencoderKL(**{**config, **changes}).eval()
    randomise(model, seed)
    return model


# ---- cases ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A model with fixed conditioning, and what a property test needs to call it."""

    name: str
    component: str  # its name in a recording
    model: UNet2DConditionModel | AutoencoderKL
    run: Callable[[Tensor, Sequence[int]], Tensor]
    channels: int
    scale: int = 1  # input positions per latent position
    size: tuple[int, int] = (16, 16)  # latents, unless a test says otherwise

    def call(
        self,
        x: Tensor,  # [B, C, h, w]
        samples: Sequence[int] | None = None,  # whose conditioning each row of the batch has: 0 or 1
    ) -> Tensor:  # [B, C_out, h_out, w_out]
        """The output of one pass in the model's present state: dense, recorded or packed."""
        with torch.no_grad():
            return self.run(x, range(x.shape[0]) if samples is None else samples)

    def input(
        self,
        seed: int,
        batch: int = 1,
        size: tuple[int, int] | None = None,  # of the latents
    ) -> Tensor:  # [B, C, h, w]
        """A random input, the same on every device."""
        height, width = (side * self.scale for side in size or self.size)
        generator = torch.Generator().manual_seed(seed)
        values = torch.randn(batch, self.channels, height, width, generator=generator)
        return values.to(self.model.device, self.model.dtype)

    @property
    def module(self) -> nn.Module:
        """The module that is recorded: the UNet, or the encoder or decoder of the VAE."""
        return self.model.get_submodule(self.component.partition(".")[2])

    @property
    def image_size(self) -> tuple[int, int]:
        """The size of the image whose latents have the size of this case."""
        return self.size[0] * SCALE, self.size[1] * SCALE

    def full(self) -> Region:
        """The region with every position active."""
        return Region.full(*self.image_size)

    def rectangle(self, top: int, left: int, height: int, width: int, dilation: int = 0) -> Region:
        """The region of a rectangle, counted in latent positions."""
        mask = np.zeros(self.image_size, dtype=bool)
        mask[top * SCALE : (top + height) * SCALE, left * SCALE : (left + width) * SCALE] = True
        return Region.from_mask(mask, dilation=dilation)


def _unet_case(name: str, model: UNet2DConditionModel) -> Case:
    generator = torch.Generator().manual_seed(7)
    text = torch.randn(2, TOKENS, model.config.cross_attention_dim, generator=generator).to(model.device, model.dtype)
    timestep = torch.tensor([481.0, 23.0], device=model.device)
    added: dict[str, Tensor] = {}
    if model.config.addition_embed_type == "text_time":
        ids = (model.config.projection_class_embeddings_input_dim - POOLED) // model.config.addition_time_embed_dim
        pooled = torch.randn(2, POOLED, generator=generator).to(model.device, model.dtype)
        numbers = torch.randint(0, 900, (2, ids), generator=generator).float()
        added = {"text_embeds": pooled, "time_ids": numbers.to(model.device)}

    def run(x: Tensor, samples: Iterable[int]) -> Tensor:
        rows = list(samples)
        cond = {key: value[rows] for key, value in added.items()}
        return model(x, timestep[rows], encoder_hidden_states=text[rows], added_cond_kwargs=cond).sample

    return Case(name, "unet", model, run, model.config.in_channels)


UNETS: dict[str, Callable[[], UNet2DConditionModel]] = {
    "sdxl-base": sdxl_base,
    "sdxl-refiner": sdxl_refiner,
    "sdxl-inpainting": sdxl_inpainting,
    "sd15": sd15,
    "sd21": sd21,
}
CASES = [*UNETS, "vae-encoder", "vae-decoder"]


def make_case(name: str, dtype: torch.dtype = torch.float32, exact: bool = False) -> Case:
    """One of CASES on the device of the test, made once; `exact`: the weights of `dtype`, computed with in fp64."""
    return _made_once(name, dtype, exact, devices.current())


def new_case(name: str, dtype: torch.dtype = torch.float32, exact: bool = False, device: str = "cpu") -> Case:
    """One of CASES whose model nothing else uses."""
    if name in UNETS:
        return _unet_case(name, _cast(UNETS[name](), dtype, exact, device))
    model = _cast(vae(), dtype, exact, device)
    if name == "vae-encoder":
        return Case(name, "vae.encoder", model, lambda x, _: model.encode(x).latent_dist.parameters, 3, SCALE, (8, 8))
    return Case(name, "vae.decoder", model, lambda x, _: model.decode(x).sample, 4, 1, (8, 8))


_made_once = functools.cache(new_case)


def _cast(model: Any, dtype: torch.dtype, exact: bool, device: str) -> Any:
    model = nn.Module.to(model, dtype)  # diffusers' own to() logs a warning without a cause
    return nn.Module.to(model, device, torch.float64 if exact else None)


every_case = pytest.mark.parametrize("case", CASES)
# Those whose blocks differ: an inpainting UNet has more input channels than its base, and SD 2.1 other heads.
every_layout = pytest.mark.parametrize("case", [name for name in CASES if name not in ("sdxl-inpainting", "sd21")])
