"""The noise that a pipeline begins with, chosen from outside."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

__all__ = ["chosen_noise"]


@contextmanager
def chosen_noise(pipe: Any, choose: Callable[[Tensor], Tensor]) -> Iterator[None]:  # [1, C, h, w] -> [1, C, h, w]
    """Inside, an inpainting pipeline draws its noise as ever, and begins with what `choose` makes of it."""
    prepare = pipe.prepare_latents
    signature = inspect.signature(prepare)

    def prepare_with(*args: Any, **kwargs: Any) -> Any:
        latents, noise, *others = prepare(*args, **kwargs)
        chosen = choose(noise)
        if chosen is not noise:
            arguments = signature.bind(*args, **kwargs).arguments
            if arguments.get("is_strength_max", True):
                latents = chosen * pipe.scheduler.init_noise_sigma
            else:
                nothing, timestep = torch.zeros_like(noise), arguments["timestep"]
                latents = latents + pipe.scheduler.add_noise(nothing, chosen - noise, timestep)
        return (latents, chosen, *others)

    pipe.prepare_latents = prepare_with
    try:
        yield
    finally:
        del pipe.prepare_latents
