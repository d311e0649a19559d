"""What takes less memory: another way to compute attention, and models that wait on the CPU for their turn."""

from __future__ import annotations

from typing import Any

from sdxl.errors import InputError

__all__ = ["ATTENTIONS", "OFFLOADS", "set_attention", "set_offload"]

ATTENTIONS = ("auto", "sdpa", "sliced", "math")
OFFLOADS = ("none", "model")


def set_attention(pipe: Any, attention: str) -> None:
    """Sets how dense passes of the pipeline's models compute attention; packed passes have a way of their own.

    `sdpa` is torch's fused attention, which `auto` leaves to diffusers to choose. `math` writes the softmax out: one
    matrix of all positions by all positions, for each head. `sliced` does so one head after the other in the UNet and
    the ControlNet, which takes the least memory without a fused attention.
    """
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

    if attention not in ATTENTIONS:
        raise InputError(f"attention: got {attention!r}, expected one of {', '.join(ATTENTIONS)}", "attention")
    models: list[Any] = [getattr(pipe, name, None) for name in ("unet", "vae", "controlnet")]
    for model in (model for model in models if hasattr(model, "set_attn_processor")):
        if attention == "sdpa":
            model.set_attn_processor(AttnProcessor2_0())
        elif attention == "math":
            model.set_attn_processor(AttnProcessor())
        elif attention == "sliced" and hasattr(model, "set_attention_slice"):
            model.set_attention_slice("max")


def set_offload(pipe: Any, offload: str, device: str) -> None:
    """With `model`, each model waits on the CPU, and is on the device only while it runs."""
    if offload not in OFFLOADS:
        raise InputError(f"offload: got {offload!r}, expected one of {', '.join(OFFLOADS)}", "offload")
    if offload == "none":
        return
    if not device.startswith("cuda"):
        raise InputError(f"offload: got {offload} with the device {device}, expected cuda: leave it out", "offload")
    pipe.enable_model_cpu_offload(device=device)
