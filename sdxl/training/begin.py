"""The start of a stage: a checkpoint, a checkpoint grown for inpainting, or new models without trained weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from sdxl.checkpoint.configs import load_shapes
from sdxl.checkpoint.load import Parts, load
from sdxl.checkpoint.tokenizers import PADDING, load_tokenizers
from sdxl.errors import InputError
from sdxl.scenes.numbered import scene_at
from sdxl.scenes.scene import caption
from sdxl.training.inpaint import GROWN, grow
from sdxl.training.plan import KINDS, Plan
from sdxl.training.processes import processes
from sdxl.training.words import train_tokenizer

__all__ = ["begin", "begin_vae", "turbo_of"]

_CAPTIONS = 4000  # captions to learn words from


def begin(plan: Plan) -> Parts:
    """The models that a diffusion stage trains, in fp32."""
    if plan.start is None:
        assert plan.vae is not None  # Plan refuses a stage without both
        others = load(_existing("vae", plan.vae), dtype=torch.float32)
        return _fresh_refiner(plan, others) if plan.kind == "sdxl-refiner" else replace(_fresh(plan), vae=others.vae)
    parts = load(_existing("start", plan.start), dtype=torch.float32)
    kind = plan.kind or parts.kind
    if parts.kind == kind:
        return _trainable(parts)
    if GROWN.get(parts.kind) != kind:
        raise InputError(f"start: {plan.start} holds {parts.kind} weights, expected {kind}, or what grows into it")
    if plan.learns == "lora":
        raise InputError(
            f"learn: lora cannot make {kind} of {parts.kind}, because the new input weights would stay zero: "
            f"start from {kind} weights, or write `learn: unet`"
        )
    return grow(_trainable(parts))


def begin_vae(plan: Plan) -> Parts:
    """The whole checkpoint whose VAE a `vae` stage trains."""
    return _fresh(plan) if plan.start is None else load(_existing("start", plan.start), dtype=torch.float32)


def turbo_of(parts: Parts) -> Parts:
    """The same models as a turbo, with a turbo's scheduler."""
    if parts.kind != "sdxl-base":
        raise InputError(f"start: {parts.path} holds {parts.kind} weights, expected sdxl-base, the teacher of a turbo")
    shapes = load_shapes("sdxl-turbo", variant=parts.variant)
    return replace(parts, kind="sdxl-turbo", scheduler_config=shapes.scheduler)


def _existing(name: str, path: Path) -> Path:
    if not path.exists():
        raise InputError(f"{name}: {path} does not exist: download it (docs/checkpoints.md), or train it first")
    return path


def _trainable(parts: Parts) -> Parts:
    """The checkpoint itself; one whose UNet does not predict the noise is refused, because the loss is for noise."""
    target = parts.scheduler_config.get("prediction_type", "epsilon")
    if parts.kind not in (*KINDS, "sdxl-turbo") or target != "epsilon":
        known = ", ".join(KINDS)
        raise InputError(f"start: {parts.path} holds {parts.kind} weights that predict {target}, expected {known}")
    return parts


def _fresh(plan: Plan) -> Parts:
    """New models of the plan's shapes with PyTorch's initial weights, and tokenizers learned from captions."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(plan.seed)
    kind = plan.kind or "sdxl-base"
    shapes = load_shapes(kind, variant=plan.variant)
    with processes().main_process_first():
        _learn_words(plan.out)
    models: dict[str, nn.Module] = {
        "unet": UNet2DConditionModel.from_config(shapes.parts["unet"]),
        "vae": AutoencoderKL.from_config(shapes.parts["vae"]),
    }
    for name, class_ in (("text_encoder", CLIPTextModel), ("text_encoder_2", CLIPTextModelWithProjection)):
        if name in shapes.parts:
            models[name] = class_(CLIPTextConfig(**shapes.parts[name]))
    words = load_tokenizers(plan.out, tuple(models))
    parts = {name: models.get(name) for name in ("text_encoder", "text_encoder_2")}
    named = {name: words.get(name) for name in ("tokenizer", "tokenizer_2")}
    return Parts(kind, models["unet"], models["vae"], **parts, **named, scheduler_config=shapes.scheduler,
                 path=plan.out, variant=plan.variant)  # fmt: skip


def _fresh_refiner(plan: Plan, base: Parts) -> Parts:
    """A new UNet beside the base's VAE and its second text encoder, which a refiner shares."""
    from diffusers import UNet2DConditionModel

    if base.text_encoder_2 is None:
        raise InputError(f"vae: {plan.vae} holds {base.kind} weights, expected sdxl-base, whose text encoder is shared")
    torch.manual_seed(plan.seed)
    shapes = load_shapes("sdxl-refiner", variant=plan.variant)
    unet = UNet2DConditionModel.from_config(shapes.parts["unet"])
    return replace(base, kind="sdxl-refiner", unet=unet, text_encoder=None, tokenizer=None,
                   scheduler_config=shapes.scheduler, path=plan.out, variant=plan.variant)  # fmt: skip


def _learn_words(folder: Path) -> None:
    for name, padding in PADDING.items():
        texts = (caption(scene_at(i), np.random.default_rng(i)) for i in range(_CAPTIONS))
        train_tokenizer(texts, folder / name, padding)
