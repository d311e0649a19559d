"""The handle: what enable() returns, and its two contexts, record() and edit().

Outside the contexts a model runs as it is. Inside `record()` its dense passes are recorded. Inside `edit()` passes run
packed on recordings: on those that are given, or, for a pipeline, on those that a policy makes step by step.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from sige.attach import Attachment, Claim, attached
from sige.compiled import Compilation
from sige.errors import ConfigError, RecordingError, RegionError
from sige.models import Component, Part, find_parts, is_pipeline
from sige.packed.prompt import PromptKeys
from sige.passes import Call, Packing, Passes, record_pass
from sige.policies import Lockstep, Policy, Stored, Temporal
from sige.policies.runner import Runner
from sige.programs import Programs
from sige.recordings import Blend, Patch, Recording, Store
from sige.region import Region

__all__ = ["Handle", "enable", "handle_of"]

_ENTRY = threading.Lock()  # held while a context is entered, by whichever handle
Terms = Iterable[tuple[Recording, float]]


def enable(target: Any) -> Handle:
    """Prepares a UNet2DConditionModel, an AutoencoderKL or a pipeline for recording and editing.

    Raises `UnsupportedError` with path and class for a module that cannot run packed. Enabling twice returns the same
    handle. Pipelines that share modules can be enabled side by side. While enabled, convolution weights are kept
    channels-last, which packed and recorded passes read without a copy; `disable()` puts them back.
    """
    parts = find_parts(target)
    pipe = target if is_pipeline(target) else None
    handle = _covering(parts) or Handle(parts)
    handle.pipe = handle.pipe or pipe
    return handle


def handle_of(target: Any) -> Handle | None:
    """The handle that has enabled the target, if one has."""
    return _covering(find_parts(target))


def _covering(parts: list[Part]) -> Handle | None:
    """A handle that holds all of the modules, or None."""
    attachments = [attached(part.module) for part in parts]
    first, *others = attachments
    if first is None:
        return None
    shared = [handle for handle in first.handles if all(other and handle in other.handles for other in others)]
    return min(shared, key=lambda handle: len(handle.attachments), default=None)


class Handle:
    """The object that `enable` returns; as a context manager it disables on leaving."""

    def __init__(self, parts: list[Part]) -> None:
        self.attachments: dict[str, Attachment] = {}
        self.pipe: Any = None  # the pipeline that was enabled, where it was one
        self.last: Recording | None = None  # what edit() reads unless told otherwise
        self.patches: dict[int, Patch] = {}  # by step: what the last edit on a store would change in it
        self.passes = Passes()  # of the last call of the pipeline inside edit()
        self._claim: Claim | None = None
        self._prompt = PromptKeys()  # good for as long as the weights are those of the last recording
        try:
            for part in parts:
                attachment = attached(part.module) or Attachment(part)
                attachment.handles.append(self)
                self.attachments[part.name] = attachment
        except BaseException:
            self._let_go()
            raise
        self.enabled = True

    @property
    def components(self) -> dict[str, Component]:
        """The modules that can be recorded and run packed, by name."""
        return {name: attachment.component() for name, attachment in self.attachments.items()}

    @property
    def totals(self) -> dict[str, Passes]:
        """The number of passes that each module has run since it was enabled, inside contexts and outside."""
        return {name: attachment.passes for name, attachment in self.attachments.items()}

    @property
    def programs(self) -> dict[str, Programs]:
        """The programs that packed passes of each module run as; `why_not` says why there are none."""
        return {name: attachment.programs for name, attachment in self.attachments.items()}

    def disable(self) -> None:
        """Gives every module its own forward and weight layout back; dense outputs are what they were, bit for bit.

        A module that another handle holds stays enabled until that one is disabled, too.
        """
        if not self.enabled:
            return
        self.enabled = False
        self._release()
        self._let_go()

    def _let_go(self) -> None:
        """A disabled handle keeps nothing alive."""
        for attachment in self.attachments.values():
            attachment.handles.remove(self)
            if not attachment.handles:
                attachment.detach()
        self.attachments, self.patches = {}, {}
        self.pipe = self.last = None
        self._prompt.clear()

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *_: object) -> None:
        self.disable()

    def look(self) -> bool:
        """Says whether weights or modules have changed since they were last looked at."""
        return any([attachment.look() for attachment in self.attachments.values()])

    def compile(self, mode: str | None = "default", *, regional: bool = False, backend: str = "inductor") -> None:
        """Compiles dense and recorded passes by torch.compile, inside contexts and outside; packed passes stay.

        With `regional` each block that comes again and again is compiled by itself, which takes much less time. What
        is compiled goes with `disable()`; mode None lets it go before. The first pass of a shape compiles.
        """
        compilation = None if mode is None else Compilation(mode, regional, backend)
        with _ENTRY:
            self._check_idle("compile")
            for name, attachment in self.attachments.items():
                attachment.check_free("compile", name)
            for attachment in self.attachments.values():
                attachment.compile(compilation)

    # ---- contexts ---------------------------------------------------------------------------------------------------

    @contextmanager
    def record(self) -> Iterator[Recording]:
        """Inside, calls run dense and leave what they computed in the recording that this yields.

        A component that is called more than once is recorded as of its last call. Where the block raises, the
        recording is cleared. Weights must not change between a recording and the edits that read it.
        """
        recording = Recording()
        with self._claimed("record", self.attachments, lambda call: record_pass(call, recording)):
            self._prompt.clear()
            try:
                yield recording
            except BaseException:
                recording.clear()
                raise
        if self.enabled:
            self.last = recording

    @contextmanager
    def edit(
        self,
        region: Region | Any,  # or, for a policy, a mask [H, W]
        policy: Policy | None = None,
        *,
        blend: Terms | None = None,
        exact_statistics: bool | None = None,
        store: Store | None = None,
        patch: Patch | None = None,
    ) -> Iterator[None]:
        """Inside, calls compute the region's active positions only and take the rest from recordings.

        A pipeline's steps follow the policy, `sige.Temporal()` unless another is given: it makes its recordings by
        itself, at every call of the pipeline; the VAE runs dense. With a `store` it leaves them there for later edits,
        or, where the policy is `sige.Stored`, reads those of an earlier edit; `handle.patches` is then what this edit
        would change in the store.

        By hand, passes read `blend`, a list of (recording, weight) whose weights add up to 1; a model that is enabled
        without a pipeline reads the last recording unless a blend is given. With `exact_statistics=False` the
        GroupNorm statistics stay as they were recorded, for comparison. A `patch` is filled with the new rows.
        """
        self._check_idle("edit")
        by_hand = blend is not None or (policy is None and self.pipe is None)
        if by_hand and policy is None:
            if store is not None:
                raise ConfigError("store: a policy fills or reads it: enable the pipeline and give no blend")
            with self._by_hand(region, blend, exact_statistics is not False, patch):
                yield
            return
        for field, value in (("blend", blend), ("exact_statistics", exact_statistics), ("patch", patch)):
            if value is not None:
                raise ConfigError(f"{field}: a policy brings its own: leave {field} out, or the policy")

        with self._following(region, Temporal() if policy is None else policy, store):
            yield

    @contextmanager
    def _by_hand(self, region: Any, blend: Terms | None, exact_statistics: bool, patch: Patch | None) -> Iterator[None]:
        if not isinstance(region, Region):
            raise RegionError(
                f"edit: got {type(region).__name__}, expected a sige.Region: make one with sige.Region.from_mask(mask)"
            )
        if blend is None:
            if self.last is None:
                raise RecordingError("edit: nothing was recorded yet: run a dense pass inside `with handle.record():`")
            blend = [(self.last, 1.0)]
        packing, read = Packing(region, exact_statistics, self._prompt), Blend.of(blend)
        with self._claimed("edit", self.attachments, lambda call: packing.packed(call, read, patch)):
            yield

    @contextmanager
    def _following(self, region: Any, policy: Policy, store: Store | None) -> Iterator[None]:
        """Inside, the denoiser's calls follow the policy; when the block ends, the policy's recordings are freed."""
        denoiser = self._denoiser(policy)
        if isinstance(policy, Stored) and store is None:
            raise ConfigError("store: sige.Stored reads recordings of an earlier edit: pass the store that has them")
        packing = Packing(_region(region, policy), policy.exact_statistics, self._prompt)
        runner = Runner(policy, packing, self.pipe, store)
        with self._claimed("edit", denoiser, lambda call: self._run(runner, call)):
            self._prompt.clear()
            try:
                yield
                self.patches = runner.patches
            finally:
                runner.free()

    def _run(self, runner: Runner, call: Call) -> Any:
        try:
            return runner(call)
        finally:
            self.passes = runner.passes

    def _denoiser(self, policy: Policy) -> dict[str, Attachment]:
        """The module whose calls are a pipeline's steps."""
        if not isinstance(policy, Temporal | Lockstep | Stored):
            raise ConfigError(f"policy: got {policy!r}, expected sige.Temporal(...) or sige.Lockstep(...)")
        found = {name: one for name, one in self.attachments.items() if one.role == "denoiser"}
        if self.pipe is None or not found:
            raise ConfigError(
                "policy: a policy follows the steps of a pipeline: enable the pipeline, or leave the policy out and "
                "edit by hand"
            )
        if not any(part.module is one.module for part in find_parts(self.pipe) for one in found.values()):
            raise ConfigError("policy: the pipeline has another UNet by now: call sige.enable(pipe) again")
        return found

    # ---- entering and leaving ---------------------------------------------------------------------------------------

    @contextmanager
    def _claimed(self, context: str, attachments: dict[str, Attachment], take: Callable[[Call], Any]) -> Iterator[None]:
        """Inside, calls of these modules go to `take`; no other context may have one of them."""
        with _ENTRY:
            self._check_idle(context)
            for name, attachment in attachments.items():
                attachment.check_free(context, name)
                attachment.look()  # refuses now what changed since and cannot run packed
            self._claim = Claim(context, threading.get_ident(), take)
            for attachment in attachments.values():
                attachment.claim = self._claim
                attachment.programs.begin()
        try:
            yield
        finally:
            self._release()

    def _release(self) -> None:
        """Ends the context that is open, if one is."""
        for attachment in self.attachments.values():
            if attachment.claim is self._claim:
                attachment.claim = None
        self._claim = None

    def _check_idle(self, context: str) -> None:
        if not self.enabled:
            raise RecordingError(f"{context}: the handle was disabled: call sige.enable() again")
        if self._claim is not None:
            another = "" if self._claim.thread == threading.get_ident() else ", which another thread is in"
            raise RecordingError(
                f"{context}: already inside `with handle.{self._claim.context}(...)`{another}: leave it first"
            )


def _region(region: Any, policy: Policy) -> Region:
    """The region itself, or that of a mask, dilated as the policy says."""
    if not isinstance(region, Region):
        return Region.from_mask(region, dilation=policy.dilates_by)
    if policy.dilation is not None:
        raise ConfigError("dilation: a Region is dilated already: pass the mask, or leave dilation out")
    return region
