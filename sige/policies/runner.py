"""The runner: executes a policy's plan, one call of the denoiser after another.

A runner lives as long as `handle.edit(region, policy)`. It begins anew with each call of the pipeline. Where weights,
modules or the batch change in the middle of a call, it drops its recordings and makes a new one at once.
"""

from __future__ import annotations

from typing import Any

import torch

from sige.errors import ConfigError
from sige.models.component import sample_size
from sige.passes import Call, Packing, Passes, record_pass
from sige.policies import Lockstep, Policy
from sige.policies.original import Original
from sige.policies.plan import Step, is_read
from sige.policies.steps import Steps
from sige.recordings import Blend, Recording

__all__ = ["Runner"]


class Runner:
    """The state of one edit: the current plan, its recordings, and how many passes ran."""

    def __init__(self, policy: Policy, packing: Packing, pipe: Any) -> None:
        self.policy = policy
        self.packing = packing
        self.steps = Steps(pipe)
        self.passes = Passes()  # of the last call of the pipeline
        self._plan: list[Step] = []
        self._recordings: dict[int, Recording] = {}  # by the step that was recorded
        self._batch: torch.Size | None = None  # shape of the last sample
        self._original = _original(policy)

    def __call__(self, call: Call) -> Any:
        """Runs the denoiser's passes of this step, and returns its result; an exception frees the recordings."""
        try:
            return self._run(call)
        except BaseException:
            self.free()
            raise

    def _run(self, call: Call) -> Any:
        if self.steps.advance(call.component.module):
            self._begin(call)
        elif call.changed or call.sample.shape != self._batch:
            self.free()  # recordings of other weights, or of another batch, say nothing about this step
            self._plan = self._make_plan(call, self.steps.index)
        self._batch = call.sample.shape
        index = self.steps.index
        result = self._take(self._plan[index], index, call)
        self._forget(index + 1)
        return result

    def _begin(self, call: Call) -> None:
        self.free()
        self.passes = Passes()
        self._plan = self._make_plan(call, 0)
        if self._original is not None:
            self._original.forget()

    def _make_plan(self, call: Call, first: int) -> list[Step]:
        active = self.packing.region.ratio(*sample_size(call.sample))
        return self.policy.plan(self.steps.count, active, first)

    def _take(self, step: Step, index: int, call: Call) -> Any:
        if step.records_original and self._original is not None:
            self._recordings[index] = Recording()
            record_pass(self._original.at(call, self.steps.scheduler), self._recordings[index])
            self.passes.dense += 1
        if step.reads:
            self.passes.packed += 1
            return self.packing.packed(call, Blend.of((self._recordings[at], weight) for at, weight in step.reads))
        self.passes.dense += 1
        if not is_read(index, self._plan, index + 1):
            return call.dense()
        self._recordings[index] = Recording()
        return record_pass(call, self._recordings[index])

    def _forget(self, first: int) -> None:
        """Frees the recordings that no step from `first` on reads."""
        for index in [index for index in self._recordings if not is_read(index, self._plan, first)]:
            self._recordings.pop(index).free()

    def free(self) -> None:
        """Frees every recording."""
        for recording in self._recordings.values():
            recording.free()
        self._recordings.clear()


def _original(policy: Policy) -> Original | None:
    if not isinstance(policy, Lockstep):
        return None
    if policy.original is None:
        raise ConfigError(
            "original: lockstep runs the original beside the edit: pass its scaled latents, "
            "handle.edit(mask, sige.Lockstep(original=latents))"
        )
    return Original(policy.original, policy.start)
