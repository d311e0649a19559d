"""Chooses the weights that learn: all but the VAE's, the UNet's, or matrices of small rank beside the UNet's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from sdxl.checkpoint.load import Parts
from sdxl.checkpoint.models import build_scheduler
from sdxl.errors import InputError
from sdxl.training.denoiser import Denoiser
from sdxl.training.loop import FULL
from sdxl.training.plan import TIMESTEPS, Lora, Plan
from sdxl.training.student import Student
from sdxl.training.weighting import Weighting
from sige.dtypes import named_dtype

__all__ = ["add_lora_layers", "make_denoiser"]


def make_denoiser(parts: Parts, plan: Plan) -> Denoiser:
    """The checkpoint as one module; only the weights that the plan lets learn require gradients."""
    models = {name: model for name, model in parts.models().items() if name != "vae"}
    words = {name: getattr(parts, name.replace("text_encoder", "tokenizer")) for name in models if "text" in name}
    denoiser = _made(parts, plan, models, words)
    if plan.learns == "all":
        denoiser.requires_grad_(True).train()
    else:
        denoiser.requires_grad_(False).eval()
        parts.unet.train()
        if plan.learns == "lora":
            # Frozen weights need no more precision than the arithmetic has.
            precision = plan.loop.precision
            _cast(denoiser.parameters(), torch.float32 if precision == FULL else named_dtype(precision))
            add_lora_layers(parts.unet, plan.lora, plan.seed)
        else:
            parts.unet.requires_grad_(True)
    if plan.loop.gradient_checkpointing:
        parts.unet.enable_gradient_checkpointing()
    return denoiser


def _made(parts: Parts, plan: Plan, models: dict[str, nn.Module], words: dict[str, Any]) -> Denoiser:
    if plan.stage == "distil":
        return Student(models, words, _alphas(parts), steps=plan.distil.steps)
    weighting = Weighting(plan.min_snr, plan.velocity, plan.masked)
    return Denoiser(models, words, _alphas(parts), weighting, plan.pure_from)


def _alphas(parts: Parts) -> Tensor:  # [T]
    alphas: Tensor = build_scheduler("DDIMScheduler", parts.scheduler_config, parts.path).alphas_cumprod
    if len(alphas) != TIMESTEPS:
        raise InputError(f"start: {parts.path} has {len(alphas)} timesteps, expected {TIMESTEPS}")
    return alphas


def add_lora_layers(unet: Any, lora: Lora, seed: int) -> None:
    """Adds LoRA layers to diffusers' UNet, in fp32; at first they do not change its output."""
    torch.manual_seed(seed)
    targets = list(lora.targets)
    try:
        from peft import LoraConfig

        layers = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, init_lora_weights="gaussian", target_modules=targets)
        unet.add_adapter(layers)
    except ImportError as error:
        raise InputError(f"learn: lora needs the package peft ({error}): pip install peft") from error
    except ValueError as error:
        raise InputError(f"lora.targets: got {', '.join(targets)}: {' '.join(str(error).split())[:200]}") from error
    _cast((value for value in unet.parameters() if value.requires_grad), torch.float32)


def _cast(parameters: Iterable[nn.Parameter], dtype: torch.dtype) -> None:
    """Casts the parameters; a model's own `to` would warn of modules that it does not have."""
    for value in parameters:
        value.data = value.data.to(dtype)
