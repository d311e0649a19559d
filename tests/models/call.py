"""A UNet with fixed conditioning, which the tests of adapters call."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

import sige
from sige import Region
from tests.models import devices
from tests.models.test_properties import RELATIVE_ERROR, relative_error
from tests.models.tiny import POOLED, TOKENS

UNet = UNet2DConditionModel
REGION = Region.full(128, 128)


class Call:
    """A UNet with fixed conditioning, and two inputs."""

    def __init__(self, unet: UNet, **extra: Any) -> None:
        generator = torch.Generator().manual_seed(11)

        def random(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(devices.current())

        self.unet = nn.Module.to(unet, devices.current())  # diffusers' own to() logs a warning without a cause
        self.x, self.edited = random(2, 4, 16, 16), random(2, 4, 16, 16)
        self.arguments: dict[str, Any] = {"timestep": 5, "encoder_hidden_states": random(2, TOKENS, 24), **extra}
        if unet.config.addition_embed_type == "text_time":
            ids = (unet.config.projection_class_embeddings_input_dim - POOLED) // 8
            self.arguments["added_cond_kwargs"] = {"text_embeds": random(2, POOLED), "time_ids": random(2, ids)}

    def __call__(self, x: Tensor, **extra: Any) -> Tensor:  # [B, C, H, W] -> [B, C, H, W]
        with torch.no_grad():
            return self.unet(x, **self.arguments, **extra).sample

    def packed_error(self, **extra: Any) -> float:
        """The error of a packed pass with everything active against a dense pass with the same arguments."""
        dense = self(self.edited, **extra)
        with sige.enable(self.unet) as handle:
            with handle.record():
                recorded = self(self.x, **extra)
            with handle.edit(Region.from_mask(torch.eye(128), dilation=0)):
                assert relative_error(self(self.x, **extra), recorded) <= RELATIVE_ERROR
            with handle.edit(REGION):
                return relative_error(self(self.edited, **extra), dense)
