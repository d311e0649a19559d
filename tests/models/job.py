"""A stock pipeline with fixed conditioning, called over and over with the same seed."""

from __future__ import annotations

from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor

from tests.models.tiny import TOKENS, sd15, sdxl_base, vae

SIDE = 128
STEPS = 8
SCHEDULERS = (
    "DDIMScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "PNDMScheduler",
    "LCMScheduler",
    "HeunDiscreteScheduler",
)
SHALLOW = {"layers_per_block": 1, "transformer_layers_per_block": 1}  # policies do not depend on the depth


class Job:
    """A pipeline with fixed conditioning, called over and over with the same seed."""

    def __init__(self, kind: str, scheduler: str = "DDIMScheduler", unet: Any = None) -> None:
        xl = "XL" in kind
        self.unet = unet or (sdxl_base(**SHALLOW) if xl else sd15(sample_size=16, layers_per_block=1))
        parts: dict[str, Any] = dict.fromkeys(("text_encoder", "tokenizer"))
        if xl:
            parts |= dict.fromkeys(("text_encoder_2", "tokenizer_2")) | {"add_watermarker": False}
        else:
            parts |= dict.fromkeys(("safety_checker", "feature_extractor")) | {"requires_safety_checker": False}
        noise = getattr(diffusers, scheduler)(num_train_timesteps=1000)
        self.pipe = getattr(diffusers, f"StableDiffusion{kind}Pipeline")(
            vae=vae(), unet=self.unet, scheduler=noise, **parts
        )
        self.pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(5)
        shapes = {"prompt_embeds": (TOKENS, 24), "negative_prompt_embeds": (TOKENS, 24)}
        if xl:
            shapes |= {"pooled_prompt_embeds": (16,), "negative_pooled_prompt_embeds": (16,)}
        self.options = {name: torch.randn(1, *shape, generator=generator) for name, shape in shapes.items()}
        self.image = torch.rand(1, 3, SIDE, SIDE, generator=generator)
        self.mask = np.zeros((SIDE, SIDE), dtype=bool)
        self.mask[30:90, 40:100] = True
        if "Inpaint" in kind:
            mask = torch.tensor(self.mask, dtype=torch.float32)[None, None]
            self.options |= {"mask_image": mask, "height": SIDE, "width": SIDE}
        self.strength = 1.0 if "Inpaint" in kind else 0.75

    def __call__(self, **changes: Any) -> Tensor:  # latents [1, 4, 16, 16]
        options = {"num_inference_steps": STEPS, "strength": self.strength, "guidance_scale": 3.0, "image": self.image}
        generator = torch.Generator().manual_seed(9)
        with torch.no_grad():
            return self.pipe(**{**options, **self.options, **changes}, generator=generator, output_type="latent").images

    def latents(self) -> Tensor:  # [1, 4, 16, 16], those of the picture as the pipeline draws them
        with torch.no_grad():
            return self.pipe.vae.encode(2 * self.image - 1).latent_dist.mode() * self.pipe.vae.config.scaling_factor
