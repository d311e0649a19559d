"""Samples during the training: pictures side by side in one file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sdxl.checkpoint.load import Parts
from sdxl.scenes.draw import draw
from sdxl.scenes.numbered import HELD_OUT, scene_at
from sdxl.training.latents import at_once, mask_for
from sdxl.training.pictures import Pictures, as_pixels
from sdxl.training.plan import Plan
from sige.files import atomic_write

__all__ = ["paint_again", "paint_masked", "paint_prompts", "save_grid"]

_SETTINGS = {"num_inference_steps": 25, "guidance_scale": 4.0, "output_type": "pt"}
_TURBO = {"num_inference_steps": 4, "guidance_scale": 0.0}


@torch.no_grad()
def paint_again(vae: Any, plan: Plan, step: int) -> None:
    """Writes a sample of the VAE: pictures above, the same after encoding and decoding below."""
    pixels = torch.stack([as_pixels(draw(scene_at(HELD_OUT + i), plan.data.side)) for i in range(6)])
    again = vae.decode(vae.encode(pixels.to(vae.device)).latent_dist.mean).sample.cpu()
    save_grid(torch.stack([pixels, again]), _path(plan, step))


@torch.no_grad()
def paint_prompts(parts: Parts, plan: Plan, step: int) -> None:
    """Writes a sample of a text-to-image model: a picture for each of the plan's prompts."""
    images = _painted(parts, "text2img", plan, {})  # [P, 3, H, W]
    columns = 4 if len(images) % 4 == 0 else 1
    save_grid(images.view(-1, columns, *images.shape[1:]), _path(plan, step))


@torch.no_grad()
def paint_masked(parts: Parts, plan: Plan, pictures: Pictures, step: int) -> None:
    """Writes a sample of an inpainting model: masked pictures above, the painted ones below."""
    rngs = [np.random.default_rng([9, place]) for place in range(len(plan.prompts))]
    pixels = torch.stack([pictures.picture(i % len(pictures), rng).pixels for i, rng in enumerate(rngs)])
    masks = torch.stack([mask_for(rng, pictures.size) for rng in rngs])  # [P, 1, H, W]
    painted = _painted(parts, "inpainting", plan, {"image": (pixels + 1) / 2, "mask_image": masks})
    save_grid(torch.stack([pixels * (1 - masks), painted]), _path(plan, step))


def _painted(parts: Parts, task: str, plan: Plan, pictures: dict[str, Tensor]) -> Tensor:  # [P, 3, H, W], from -1 to 1
    """The painted prompts, as many in one call as memory allows; `pictures` holds the inputs of inpainting."""
    height, width = plan.data.height, plan.data.width
    prompts, step = list(plan.prompts), at_once((height, width))
    settings = _SETTINGS | (_TURBO if parts.kind == "sdxl-turbo" else {})
    done = []
    with _pipeline(parts, task) as pipe:
        for first in range(0, len(prompts), step):
            some = slice(first, first + step)
            generators = [torch.Generator().manual_seed(i) for i in range(len(prompts))[some]]
            given = {name: values[some] for name, values in pictures.items()}
            if given:
                given["strength"] = 1.0  # type: ignore[assignment]
            images = pipe(prompts[some], height=height, width=width, generator=generators, **given, **settings).images
            done.append(images.float().cpu() * 2 - 1)
    return torch.cat(done)


@contextmanager
def _pipeline(parts: Parts, task: str) -> Iterator[Any]:
    """Diffusers' pipeline; inside the block the VAE is on the UNet's device, in its dtype."""
    from sdxl.pipelines.load import make_pipeline

    pipe = make_pipeline(parts, task)
    pipe.set_progress_bar_config(disable=True)
    own = parts.vae.dtype
    parts.vae.to(parts.unet.device, parts.unet.dtype)
    try:
        yield pipe
    finally:
        parts.vae.to("cpu", own)


def _path(plan: Plan, step: int) -> Path:
    return plan.out / f"sample-{step:06d}.png"


def save_grid(
    rows: Tensor,  # [rows, columns, 3, H, W], from -1 to 1
    path: Path,
) -> None:
    """Writes all pictures as one."""
    grid = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
    pixels = ((grid.permute(1, 2, 0).clamp(-1, 1) + 1) * 127.5).round().byte().numpy()
    with atomic_write(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")
