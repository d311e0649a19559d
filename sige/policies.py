"""The policies: for each UNet call of a pipeline, which pass runs and what it reads.

    temporal   step 0: dense, recorded   1: packed on a forecast   2: dense, recorded   3, 4: packed   5: dense ...
    lockstep   every step: the original's noised latents dense, recorded; then the edit packed on that recording

A policy lives as long as `handle.edit(region)`; it begins anew with each call of the pipeline, and an exception frees
its recordings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from sige.config import EditConfig
from sige.errors import ConfigError
from sige.passes import Call, Packing, record_pass
from sige.recording import Blend, Recording
from sige.schedule import dense_steps, forecast_terms

__all__ = ["NEARLY_ALL", "Passes", "Policy", "make_policy"]

NEARLY_ALL = 0.95  # of the positions active: from here on a dense pass costs no more (docs/speed.md)


@dataclass
class Passes:
    """How many passes of each kind the last call of the pipeline took."""

    dense: int = 0
    packed: int = 0


class Policy(Protocol):
    """What the handle asks at each UNet call."""

    passes: Passes

    def __call__(self, call: Call) -> Any:
        """The pass, and its result."""

    def reset(self) -> None:
        """Forgets every recording."""


def make_policy(config: EditConfig, packing: Packing, pipe: Any, **latents: Tensor | None) -> Policy:
    """The policy that the configuration names; `latents` are those that lockstep needs."""
    if config.policy == "temporal":
        return Temporal(config, packing, Steps(pipe))
    original, start = latents.get("original"), latents.get("start")
    if original is None:
        raise ConfigError(
            "edit: lockstep runs the original beside the edit: pass its scaled latents, edit(region, original=latents)"
        )
    return Lockstep(packing, Steps(pipe), original, original if start is None else start)


@dataclass
class Steps:
    """Where in the pipeline's call a UNet call stands."""

    pipe: Any
    index: int = -1
    count: int = 0
    _timesteps: Any = None  # the scheduler's, of this call

    def advance(self) -> bool:
        """Goes to the next step; is it the first of a call?

        Each call of a pipeline sets its scheduler's timesteps, a new tensor: so a call that ended early, by an
        exception or an interrupt, is never taken for the beginning of the next.
        """
        scheduled = self.pipe.scheduler.timesteps
        begins = scheduled is not self._timesteps or self.index + 1 >= self.count
        if begins:
            self._timesteps, self.index = scheduled, -1
            self.count = int(getattr(self.pipe, "num_timesteps", 0) or len(scheduled))
        self.index += 1
        return begins


class Temporal:
    """Dense and recorded at scheduled steps, packed on a forecast between them."""

    def __init__(self, config: EditConfig, packing: Packing, steps: Steps) -> None:
        self.config = config
        self.packing = packing
        self.steps = steps
        self.passes = Passes()
        self._plan: list[tuple[tuple[int, float], ...]] = []  # for each step what it reads: nothing where dense
        self._recordings: dict[int, Recording] = {}

    def __call__(self, call: Call) -> Any:
        if self.steps.advance():
            self.reset()
            self.passes = Passes()
            self._plan = self._make_plan(call)
        step = self.steps.index
        terms = self._plan[step]
        if terms:
            self.passes.packed += 1
            blend = Blend.of((self._recordings[other], weight) for other, weight in terms)
            result = self.packing.run(call, blend)
        else:
            self.passes.dense += 1
            result = self._dense(call, step)
        self._forget(step + 1)
        return result

    def _make_plan(self, call: Call) -> list[tuple[tuple[int, float], ...]]:
        steps = range(self.steps.count)
        level = call.sample.shape[2:]
        if self.packing.region.ratio(int(level[0]), int(level[1])) >= NEARLY_ALL:
            return [() for _ in steps]
        dense = dense_steps(self.steps.count, self.config)
        return [() if step in dense else forecast_terms(step, dense, self.config) for step in steps]

    def _dense(self, call: Call, step: int) -> Any:
        if not self._is_read_from(step, step + 1):
            return call.dense()
        recording = self._recordings[step] = Recording()
        return record_pass(call, recording)

    def _forget(self, step: int) -> None:
        """Frees the recordings that no step from here on reads."""
        for other in list(self._recordings):
            if not self._is_read_from(other, step):
                _free(self._recordings.pop(other))

    def _is_read_from(self, recorded: int, step: int) -> bool:
        return any(recorded == other for terms in self._plan[step:] for other, _ in terms)

    def reset(self) -> None:
        for recording in self._recordings.values():
            _free(recording)
        self._recordings.clear()


class Lockstep:
    """At every step the original is recorded with the edit's noise, then the edit runs packed on it."""

    def __init__(
        self,
        packing: Packing,
        steps: Steps,
        original: Tensor,  # [1 or B, C, h, w], scaled latents
        start: Tensor,  # [1 or B, C, h, w]: what the pipeline adds its noise to
    ) -> None:
        self.packing = packing
        self.steps = steps
        self.original, self.start = original, start
        self.passes = Passes()
        self._noise: Tensor | None = None  # [B, C, h, w]
        self._recording = Recording()

    @torch.no_grad()
    def __call__(self, call: Call) -> Any:
        channels = self.original.shape[1]
        timestep = call.arguments["timestep"]
        edit, more = call.sample[:, :channels], call.sample[:, channels:]  # more: the mask of an inpainting UNet
        if self.steps.advance():
            self.passes, self._noise = Passes(), None
        if self._noise is None:
            self._noise = self._find_noise(edit, timestep)
        signal, spread = self._scales(timestep, edit)
        original = (signal * self.original.to(edit) + spread * self._noise).to(edit.dtype)
        record_pass(call.on(torch.cat([original, more], dim=1)), self._recording)
        self.passes.dense += 1
        self.passes.packed += 1
        result = self.packing.run(call, Blend.of([(self._recording, 1.0)]))
        _free(self._recording)
        return result

    def _find_noise(self, edit: Tensor, timestep: Any) -> Tensor:  # [B, C, h, w] -> [B, C, h, w]
        """The noise that the pipeline began with, read off its first input."""
        signal, spread = self._scales(timestep, edit)
        return (edit.float() - signal * self.start.to(edit).float()) / spread

    def _scales(self, timestep: Any, like: Tensor) -> tuple[float, float]:
        """What the scheduler multiplies latents and noise with at this step, as the UNet sees them."""
        scheduler = self.steps.pipe.scheduler
        zero, one = (torch.full((1, 1, 1, 1), value, device=like.device) for value in (0.0, 1.0))
        at = torch.as_tensor(timestep, device=like.device).flatten()[:1]
        signal, spread = (
            float(scheduler.scale_model_input(scheduler.add_noise(latents, noise, at), at[0]))
            for latents, noise in ((one, zero), (zero, one))
        )
        return signal, spread

    def reset(self) -> None:
        self._noise = None
        _free(self._recording)


def _free(recording: Recording) -> None:
    """Frees the tensors, of a recording that nobody outside has seen, at once."""
    for part in recording.components.values():
        part.clear()
    recording.clear()
