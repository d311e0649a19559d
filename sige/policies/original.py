"""The original picture at the noise level of a step, for lockstep."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sige.errors import ConfigError
from sige.passes import Call

__all__ = ["Original"]


class Original:
    """The original's latents, noised as the pipeline noises those of the edit.

    The noise is read off the pipeline's first input, so nothing of the pipeline or the scheduler is replaced.
    """

    def __init__(
        self,
        latents: Tensor,  # [1 or B, C, h, w], scaled
        start: Tensor | None,  # [1 or B, C, h, w]: what the pipeline adds its noise to; None: the original
    ) -> None:
        self.latents = latents
        self.start = latents if start is None else start
        self._noise: Tensor | None = None  # [B, C, h, w]

    def forget(self) -> None:
        """Forgets the noise: another call of the pipeline begins."""
        self._noise = None

    @torch.no_grad()
    def at(self, call: Call, scheduler: Any) -> Call:
        """The denoiser's call on the original in place of the edit; what an inpainting UNet reads besides stays."""
        channels = self.latents.shape[1]
        edit, more = call.sample[:, :channels], call.sample[:, channels:]  # [B, C, h, w], [B, C_more, h, w]
        original, start = (_fitted(name, latents, call.sample) for name, latents in self._both())
        signal, spread = noise_level(scheduler, call.arguments["timestep"], edit)
        if self._noise is None:
            self._noise = (edit.float() - signal * start.float()) / spread
        noise = self._noise[: len(edit)]  # without guidance from some step on, only the second half is still called
        if len(noise) < len(edit):
            raise ConfigError(
                f"edit: lockstep got a batch of {len(edit)} after one of {len(noise)}: guidance cannot begin in the "
                "middle of a call; begin with it, or take sige.Temporal()"
            )
        noised = (signal * original + spread * noise).to(edit.dtype)
        return call.on(torch.cat([noised, more], dim=1))

    def _both(self) -> tuple[tuple[str, Tensor], tuple[str, Tensor]]:
        return ("original", self.latents), ("start", self.start)


def _fitted(
    name: str,
    latents: Tensor,  # [1 or B, C, h, w]
    sample: Tensor,  # [B or a multiple, C or 2 C + 1, h, w]
) -> Tensor:  # [B or a multiple, C, h, w], in the sample's dtype and on its device
    batch, channels = latents.shape[:2]
    fits = sample.shape[1] in (channels, 2 * channels + 1) and latents.shape[2:] == sample.shape[2:]
    if not fits or len(sample) % batch:
        count = len(sample)
        raise ConfigError(
            f"{name}: got latents {list(latents.shape)}, expected [1 or {count}, C, {sample.shape[2]}, "
            f"{sample.shape[3]}] as the UNet is called with {list(sample.shape)}: encode a picture of the same size"
        )
    return latents.to(sample).repeat(len(sample) // batch, 1, 1, 1)  # as pipelines repeat latents for guidance


def noise_level(scheduler: Any, timestep: Any, like: Tensor) -> tuple[float, float]:
    """The factors of latents and noise at this step, as the UNet sees them.

    A second-order scheduler of the k-diffusion family evaluates every other call at a level between two steps.
    `add_noise` does not know that level; how the scheduler scales the UNet's input tells it.
    """
    zero, one = (torch.full((1, 1, 1, 1), value, device=like.device) for value in (0.0, 1.0))
    at = torch.as_tensor(timestep, device=like.device).flatten()[:1]
    signal, spread = (
        float(scheduler.scale_model_input(scheduler.add_noise(latents, noise, at), at[0]))
        for latents, noise in ((one, zero), (zero, one))
    )
    if not getattr(scheduler, "state_in_first_order", True):
        scale = float(scheduler.scale_model_input(one.double(), at[0]))  # 1 / sqrt(sigma² + 1)
        if scale < 1.0:
            return scale, math.sqrt(1.0 - scale * scale)
    return signal, spread
