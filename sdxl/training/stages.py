"""The stages of training.

vae         pixels of scenes ─▶ a VAE
diffusion   its latents ─▶ a UNet, perhaps with text encoders
distil      what that UNet paints in many steps ─▶ a UNet that needs few
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from sdxl.checkpoint.load import Parts
from sdxl.errors import InputError
from sdxl.scenes.draw import draw
from sdxl.scenes.numbered import scene_at
from sdxl.training.autoencoder import Autoencoder, normalise, scene_crops
from sdxl.training.batches import Batch, Source, make_batch
from sdxl.training.begin import begin, begin_vae, turbo_of
from sdxl.training.folder import FolderPictures
from sdxl.training.identity import identity
from sdxl.training.inpaint import inpaints
from sdxl.training.latents import Draws, kept_latents
from sdxl.training.learning import make_denoiser
from sdxl.training.loop import check_resumes, train
from sdxl.training.pictures import Pictures, ScenePictures, as_pixels
from sdxl.training.plan import Data, Plan
from sdxl.training.processes import processes
from sdxl.training.results import write_results
from sdxl.training.samples import paint_again, paint_masked, paint_prompts
from sdxl.training.teacher import kept_trajectories

__all__ = ["run"]

_MEASURED = 256  # scenes to measure latents on


def run(plan: Plan) -> str:
    """Trains a stage, writes the weights into the plan's folder, and returns a line that says how to use them."""
    plan.out.mkdir(parents=True, exist_ok=True)
    parts = {"vae": _train_vae, "diffusion": _train_diffusion, "distil": _train_student}[plan.stage](plan)
    for model in parts.models().values():
        model.eval().requires_grad_(False)
    with processes().main_process_first():
        return write_results(parts, plan) if processes().is_main_process else ""


def _train_vae(plan: Plan) -> Parts:
    """Trains the VAE. Without `start`, the UNet and text encoders beside it are new: the file is a whole checkpoint."""
    parts = begin_vae(plan)
    about = identity(plan, parts)
    check_resumes(plan.loop, plan.out, about)
    model = Autoencoder(parts.vae.requires_grad_(True).train())
    if plan.loop.gradient_checkpointing:
        parts.vae.enable_gradient_checkpointing()
    data = plan.data
    crops: dict[str, Any] = {"seed": plan.seed, "count": data.scenes, "side": data.side, "crop": data.crop}
    batch_of = partial(scene_crops, batch=plan.loop.batch, **crops)
    train(model, batch_of, plan.loop, plan.out, partial(paint_again, parts.vae, plan), about).install()
    parts.vae.eval().requires_grad_(False)
    normalise(parts.vae, _latents(parts.vae, data.side))
    return parts


def _train_diffusion(plan: Plan) -> Parts:
    """Encodes the pictures once, then trains the UNet and the other weights that the plan lets learn on the latents."""
    pictures = _pictures(plan.data)
    parts = begin(plan)
    if plan.masked != 1 and not inpaints(parts):
        raise InputError(f"masked: got {plan.masked}, but {parts.kind} weights have no mask: leave it out")
    about = identity(plan, parts, pictures)
    check_resumes(plan.loop, plan.out, about)
    draws = Draws(masks=inpaints(parts), repeats=plan.data.repeats, seed=plan.seed)
    source = kept_latents(parts.vae, pictures, plan.out / "latents.safetensors", draws)
    model = make_denoiser(parts, plan)
    train(
        model, _batches(source, plan, plan.drop), plan.loop, plan.out, _sampler(parts, plan, pictures), about
    ).install()
    return parts


def _train_student(plan: Plan) -> Parts:
    """Lets the checkpoint paint every caption once, then trains its UNet to paint the same in few steps."""
    pictures = _pictures(plan.data)
    teacher = begin(plan)
    about = identity(plan, teacher, pictures)
    check_resumes(plan.loop, plan.out, about)
    parts = turbo_of(teacher)
    model = make_denoiser(parts, plan).to(processes().device)
    path = plan.out / "trajectories.safetensors"
    source = kept_trajectories(model, pictures, path, plan.distil, teacher.scheduler_config, plan.seed)
    train(model, _batches(source, plan, 0.0), plan.loop, plan.out, _sampler(parts, plan, pictures), about).install()
    return parts


def _batches(source: Source, plan: Plan, drop: float) -> Callable[[int, tuple[int, int]], Batch]:
    def batch_of(step: int, share: tuple[int, int]) -> Batch:
        timesteps = 0, plan.timesteps
        return make_batch(
            source, seed=plan.seed, step=step, batch=plan.loop.batch, drop=drop, timesteps=timesteps, share=share
        )

    return batch_of


def _pictures(data: Data) -> Pictures:
    if data.folder is None:
        return ScenePictures(data.scenes, data.side)
    return FolderPictures(data.folder, data.height, data.width, flip=data.flip)


def _sampler(parts: Parts, plan: Plan, pictures: Pictures) -> Callable[[int], None] | None:
    if not plan.prompts or parts.kind == "sdxl-refiner":  # a refiner paints nothing by itself
        return None
    return partial(paint_masked, parts, plan, pictures) if inpaints(parts) else partial(paint_prompts, parts, plan)


@torch.no_grad()
def _latents(vae: Any, side: int) -> torch.Tensor:  # [N, C, h, w]
    numbers = range(0, _MEASURED, 8)
    batches = (torch.stack([as_pixels(draw(scene_at(n + i), side)) for i in range(8)]) for n in numbers)
    return torch.cat([vae.encode(batch.to(vae.device)).latent_dist.mean for batch in batches])
