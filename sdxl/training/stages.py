"""The stages of training: a VAE from scenes, then a UNet with its text encoders on that VAE's latents."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from sdxl.checkpoint.configs import load_shapes
from sdxl.checkpoint.load import Parts, load
from sdxl.checkpoint.tokenizers import PADDING, load_tokenizers
from sdxl.export import save_single_file
from sdxl.files import atomic_write
from sdxl.training.autoencoder import Autoencoder, normalise, scene_crops
from sdxl.training.batches import make_batch
from sdxl.training.denoiser import Denoiser
from sdxl.training.draw import draw
from sdxl.training.latents import SceneLatents, as_pixels, encode_scenes, scene_at
from sdxl.training.loop import train
from sdxl.training.plan import Plan
from sdxl.training.scenes import caption
from sdxl.training.words import train_tokenizer

__all__ = ["run"]

WEIGHTS = "model.safetensors"
CAPTIONS, MEASURED = 4000, 256  # captions to learn words from, scenes to measure latents on


def run(plan: Plan) -> Path:
    """Trains a stage and returns the checkpoint that it wrote: one file, tokenizers beside it."""
    plan.out.mkdir(parents=True, exist_ok=True)
    parts = train_vae(plan) if plan.stage == "vae" else train_diffusion(plan)
    save_single_file(parts, plan.out / WEIGHTS)
    return plan.out / WEIGHTS


def train_vae(plan: Plan) -> Parts:
    """From nothing; the text encoders and the UNet beside it are fresh ones, so that the file is a whole checkpoint."""
    parts = _fresh(plan) if plan.start is None else load(plan.start)
    model = Autoencoder(parts.vae.requires_grad_(True).train())
    data = plan.data
    crops: dict[str, Any] = {"seed": plan.seed, "count": data.scenes, "side": data.side, "crop": data.crop}
    batch_of = partial(scene_crops, batch=plan.loop.batch, **crops)
    train(model, batch_of, plan.loop, plan.out, partial(_paint_again, parts.vae, plan)).install()
    parts.vae.eval().requires_grad_(False)
    normalise(parts.vae, _latents(parts.vae, data.side))
    return parts


def train_diffusion(plan: Plan) -> Parts:
    """The UNet and, where it starts from nothing, the text encoders; the VAE is another stage's."""
    parts = load(plan.start) if plan.start is not None else _on_vae(plan)
    path = plan.out / "latents.safetensors"
    if not path.is_file():
        masks = parts.unet.config.in_channels == 2 * parts.vae.config.latent_channels + 1
        encode_scenes(parts.vae, path, plan.data.scenes, plan.data.side, masks=masks)
    source = SceneLatents(path, parts.vae.config.scaling_factor)
    models = {name: model for name, model in parts.models().items() if name != "vae"}
    words = {name: getattr(parts, name.replace("text_encoder", "tokenizer")) for name in models if "text" in name}
    model = Denoiser(models, words, _alphas(parts), plan.min_snr).requires_grad_(True).train()
    options: dict[str, Any] = {"seed": plan.seed, "batch": plan.loop.batch, "drop": plan.drop, "timesteps": 1000}

    def batch_of(step: int, share: tuple[int, int]) -> Any:
        return make_batch(source, step=step, share=share, **options)

    train(model, batch_of, plan.loop, plan.out, partial(_paint_prompts, parts, plan)).install()
    for each in models.values():
        each.eval().requires_grad_(False)
    return parts


def _fresh(plan: Plan) -> Parts:
    """Models of the plan's shapes with PyTorch's own initialisation, and words learned from captions."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(plan.seed)
    shapes = load_shapes(plan.kind, variant=plan.variant)
    for name, padding in PADDING.items():
        texts = (caption(scene_at(i), np.random.default_rng(i)) for i in range(CAPTIONS))
        train_tokenizer(texts, plan.out / name, padding)
    models: dict[str, nn.Module] = {
        "unet": UNet2DConditionModel.from_config(shapes.parts["unet"]),
        "vae": AutoencoderKL.from_config(shapes.parts["vae"]),
    }
    for name, kind in (("text_encoder", CLIPTextModel), ("text_encoder_2", CLIPTextModelWithProjection)):
        if name in shapes.parts:
            models[name] = kind(CLIPTextConfig(**shapes.parts[name]))
    words = load_tokenizers(plan.out, tuple(models))
    parts = {name: models.get(name) for name in ("text_encoder", "text_encoder_2")}
    named = {name: words.get(name) for name in ("tokenizer", "tokenizer_2")}
    return Parts(plan.kind, models["unet"], models["vae"], **parts, **named, scheduler_config=shapes.scheduler,
                 path=plan.out / WEIGHTS, variant=plan.variant)  # fmt: skip


def _on_vae(plan: Plan) -> Parts:
    """Fresh models, but for the VAE."""
    assert plan.vae is not None  # the plan has seen to it
    return replace(_fresh(plan), vae=load(plan.vae).vae)


def _alphas(parts: Parts) -> torch.Tensor:  # [T]
    from diffusers import DDIMScheduler

    return DDIMScheduler.from_config(parts.scheduler_config).alphas_cumprod  # type: ignore[no-any-return]


# ---- what one looks at while it runs ---------------------------------------------------------------------------------


@torch.no_grad()
def _latents(vae: Any, side: int) -> torch.Tensor:  # [N, C, h, w]
    numbers = range(0, MEASURED, 8)
    batches = (torch.stack([as_pixels(draw(scene_at(n + i), side)) for i in range(8)]) for n in numbers)
    return torch.cat([vae.encode(batch).latent_dist.mean for batch in batches])


@torch.no_grad()
def _paint_again(vae: Any, plan: Plan, step: int) -> None:
    """Pictures above, what the VAE makes of them below."""
    pixels = torch.stack([as_pixels(draw(scene_at(1_000_000 + i), plan.data.side)) for i in range(6)])
    again = vae.decode(vae.encode(pixels).latent_dist.mean).sample
    _save_grid(torch.stack([pixels, again]), plan.out / f"sample-{step:06d}.png")


def _paint_prompts(parts: Parts, plan: Plan, step: int) -> None:
    """A picture for each of the plan's prompts."""
    from sdxl.pipelines import make_pipeline

    if not plan.prompts or parts.unet.config.in_channels != parts.vae.config.latent_channels:
        return
    pipe = make_pipeline(parts, "text2img")
    pipe.set_progress_bar_config(disable=True)
    size = {"height": plan.data.side, "width": plan.data.side}
    generators = [torch.Generator().manual_seed(i) for i in range(len(plan.prompts))]
    with torch.no_grad():
        images = pipe(list(plan.prompts), num_inference_steps=25, guidance_scale=4.0, generator=generators, **size,
                      output_type="pt").images  # fmt: skip
    columns = 4 if len(images) % 4 == 0 else 1
    _save_grid((images * 2 - 1).view(-1, columns, *images.shape[1:]), plan.out / f"sample-{step:06d}.png")


def _save_grid(rows: torch.Tensor, path: Path) -> None:  # [rows, columns, 3, H, W], from -1 to 1
    grid = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
    pixels = ((grid.permute(1, 2, 0).clamp(-1, 1) + 1) * 127.5).round().byte().numpy()
    with atomic_write(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")
