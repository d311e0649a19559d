"""The runner: executes a policy's plan, one call of the denoiser after another.

A runner lives as long as `handle.edit(region, policy)`. It begins anew with each call of the pipeline. Where weights,
modules or the batch change in the middle of a call, it drops its recordings and makes a new one at once.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sige.errors import ConfigError
from sige.models.component import sample_size
from sige.packed.prompt import PromptKeys
from sige.passes import Call, Packing, Passes, output_of, record_outer, record_pass
from sige.policies import Lockstep, Policy, Stored
from sige.policies.original import Original
from sige.policies.plan import ACTIVE, ALL, NONE, Plan, Step
from sige.policies.schedulers import why_not_skipped
from sige.policies.steps import Steps
from sige.recordings import Blend, Patch, Recording, Store, half_of, joined, mixed

__all__ = ["Runner"]

logger = logging.getLogger(__name__)


class Runner:
    """The state of one edit: the current plan, its recordings, and how many passes ran."""

    def __init__(self, policy: Policy, packing: Packing, pipe: Any, store: Store | None = None) -> None:
        self.policy = policy
        self.packing = packing
        self.store = store  # of a session: this edit leaves its recordings there, or reads those of an earlier one
        self.patches: dict[int, Patch] = {}  # by the stored step: what this edit would change in the store
        self.steps = Steps(pipe)
        self.passes = Passes()  # of the last call of the pipeline
        self._plan = Plan(())
        self._recordings: dict[int, Recording] = {}  # by the step that was recorded
        self._outputs: dict[int, Tensor] = {}  # by the step that was computed: [B, C_out, h, w]
        self._reads_store = isinstance(policy, Stored)
        self._without: Packing | None = None  # for the half of the batch that does not see the prompt
        self._warned = ""
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
        self.patches.clear()
        self.passes = Passes()
        self._plan = self._make_plan(call, 0)
        if self._original is not None:
            self._original.forget()

    def _make_plan(self, call: Call, first: int) -> Plan:
        active = self.packing.region.ratio(*sample_size(call.sample))
        caller = self.steps.caller
        why_not = why_not_skipped(caller.pipe.scheduler, caller.eta)
        plan = self.policy.plan(self.steps.count, active, first, halves=caller.is_guided)
        if not (why_not and any(step.positions == NONE for step in plan)):
            return plan
        if self._warned != why_not:
            logger.warning("%s: no step is skipped, the policy's skipped steps run packed", why_not)
            self._warned = why_not
        return self.policy.plan(self.steps.count, active, first, skips=False, halves=caller.is_guided)

    # ---- one step ---------------------------------------------------------------------------------------------------

    def _take(self, step: Step, index: int, call: Call) -> Any:
        if step.records_original and self._original is not None:
            self._recordings[index] = Recording()
            record_pass(self._original.at(call, self.steps.scheduler), self._recordings[index])
            self.passes.dense += 1
        self._hold(index, call)
        result = self._answer(step, index, call)
        self._leave(step, index, call)
        if self._plan.is_continued(index, index + 1):
            self._outputs[index] = output_of(result).detach().clone()
        return result

    def _answer(self, step: Step, index: int, call: Call) -> Any:
        if step.positions == NONE:
            return self._continue(step, call)
        if step.positions == ACTIVE:
            self.passes.packed += 1
            return self.packing.packed(call, Blend.of(self._terms(step, call)), self._patch_at(index))
        is_read = self._plan.is_read(index, index + 1) or self._is_left(index)
        if step.half:
            return self._half(step, index, call, is_read)
        if step.outer and call.component.has_outer(call.arguments):
            return self._outer(step, index, call)
        self.passes.dense += 1
        if not is_read:
            return call.dense()
        self._recordings[index] = Recording()
        return record_pass(call, self._recordings[index])

    def _outer(self, step: Step, index: int, call: Call) -> Any:
        """Runs the outer levels dense; recording the pass costs little, so it is not asked whether it is read."""
        self.passes.outer += 1
        call.passes.outer += 1
        self._recordings[index] = Recording()
        forecast = Blend.of((self._recordings[at], weight) for at, weight in step.reads)
        return record_outer(replace(call, passes=Passes()), self._recordings[index], forecast)

    def _terms(self, step: Step, call: Call) -> list[tuple[Recording, float]]:
        """The recordings that a packed step reads, with their weights: this edit's own, and the store's."""
        own = [(self._recordings[at], weight) for at, weight in step.reads]
        return own + [(self._stored(at, call), weight) for at, weight in step.stored]

    def _continue(self, step: Step, call: Call) -> Any:
        """The output of a skipped step: earlier ones continued; the weights add up to 1, guidance included."""
        self.passes.skipped += 1
        call.passes.skipped += 1
        output = torch.stack([weight * self._outputs[at].float() for at, weight in step.outputs]).sum(dim=0)
        return call.component.wrap(output.to(self._outputs[step.outputs[0][0]].dtype), call.arguments)

    @torch.no_grad()
    def _half(self, step: Step, index: int, call: Call, is_read: bool) -> Any:
        """Runs the half with the prompt dense, and the half without packed.

        That half reads what the store has for it. Without a store it reads its own last recording and how the half
        with the prompt has changed since, old + new - old'; without an earlier recording, that of the other half.
        """
        self.passes.half += 1
        call.passes.half += 1
        name, new = call.component.name, Recording()
        with_prompt = output_of(record_pass(call.half(second=True), new))
        terms = [(half_of(self._stored(at, call), name, second=False), weight) for at, weight in step.stored]
        terms = terms or [(new, 1.0)]
        for at, _ in step.reads:
            old = self._recordings[at]
            terms += [(half_of(old, name, second=False), 1.0), (half_of(old, name, second=True), -1.0)]
        forecast = mixed(terms, name)
        self._without = self._without or replace(self.packing, prompt=PromptKeys())
        blend = Blend.of([(Recording({name: forecast}), 1.0)])
        without = output_of(self._without.packed(call.half(second=False), blend))
        if is_read:
            self._recordings[index] = Recording({name: joined(forecast, new.components[name], name)})
        return call.component.wrap(torch.cat([without, with_prompt]), call.arguments)

    # ---- the store --------------------------------------------------------------------------------------------------

    def _stored(self, step: int, call: Call) -> Recording:
        if self.store is None:
            raise ConfigError("store: the plan reads recordings of an earlier edit: pass the store that has them")
        return self.store.get(call.component.name, step)

    def _hold(self, index: int, call: Call) -> None:
        """Tells the store what this step reads, and what the next that reads anything will."""
        if self.store is None or not self._reads_store:
            return
        now = [(call.component.name, at) for at, _ in self._plan[index].stored]
        later = next((step.stored for step in self._plan.steps[index + 1 :] if step.stored), ())
        self.store.hold(now, [(call.component.name, at) for at, _ in later])

    def _is_left(self, index: int) -> bool:
        """Says whether the recording of this step goes into the store, or changes what the store has."""
        if self.store is None:
            return False
        return not isinstance(self.policy, Stored) or index in self.policy.steps

    def _patch_at(self, index: int) -> Patch | None:
        """The patch that a packed step fills, where the store keeps the step."""
        if not (self._reads_store and self._is_left(index)):
            return None
        self.patches[index] = Patch(self.packing.region)
        return self.patches[index]

    def _leave(self, step: Step, index: int, call: Call) -> None:
        """Puts a recording of this step into the store; in an edit on the store, keeps what it would change there."""
        if self.store is None or step.positions != ALL or not self._is_left(index):
            return
        name = call.component.name
        part = self._recordings[index].components[name]
        if self._reads_store:
            self.patches[index] = Patch.of(part, self.packing.region, name)
        else:
            self.store.put(name, index, part)

    # ---- what is kept -----------------------------------------------------------------------------------------------

    def _forget(self, first: int) -> None:
        """Frees what no step from `first` on reads."""
        for index in [index for index in self._recordings if not self._plan.is_read(index, first)]:
            self._recordings.pop(index).free()
        for index in [index for index in self._outputs if not self._plan.is_continued(index, first)]:
            del self._outputs[index]

    def free(self) -> None:
        """Frees every recording and every output."""
        for recording in self._recordings.values():
            recording.free()
        self._recordings.clear()
        self._outputs.clear()


def _original(policy: Policy) -> Original | None:
    if not isinstance(policy, Lockstep):
        return None
    if policy.original is None:
        raise ConfigError(
            "original: lockstep runs the original beside the edit: pass its scaled latents, "
            "handle.edit(mask, sige.Lockstep(original=latents))"
        )
    return Original(policy.original, policy.start)
