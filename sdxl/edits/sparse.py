"""Engine: enables the pipelines of an edit, runs their steps by a policy, packs the VAE and counts passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from types import TracebackType
from typing import Any

from torch import Tensor, nn

import sige
from sige.passes import Passes

__all__ = ["REFINER", "Engine", "Passes", "PassesByComponent"]

PassesByComponent = Mapping[str, Passes]  # "unet", "vae.encoder", "vae.decoder", and "refiner.unet" where there is one
REFINER = "refiner."  # prefix of the names of a refiner's own components


class Engine:
    """The engine around the pipelines of one edit, from the first encoding to the last decoding.

    With a policy every pipeline is enabled once; afterwards each is as it was, also where the caller had enabled it.
    Without one the pipelines stay as they are, and only their calls are counted.
    """

    def __init__(self, pipes: Sequence[Any], region: sige.Region, policy: sige.Policy | None) -> None:
        self.pipes = dict(zip(("", REFINER), pipes, strict=False))
        self.region = region
        self.policy = policy
        self._handles: dict[int, sige.Handle] = {}  # by the pipeline's id
        self._counts: dict[str, Callable[[], Passes]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Engine:
        with ExitStack() as stack:
            for prefix, pipe in self.pipes.items():
                handle = None if self.policy is None else stack.enter_context(_enabled(pipe))
                if handle is not None:
                    self._handles[id(pipe)] = handle
                for name, module in self._own_components(pipe).items():
                    attached = handle is not None and name in handle.totals  # a VAE of another class is not
                    count = _counted(handle, name) if handle and attached else _called(module, stack)
                    self._counts[prefix + name] = count
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    def following(
        self,
        pipe: Any,
        original: Tensor | None = None,  # [1, C, h, w], scaled latents
        start: Tensor | None = None,  # [1, C, h, w]: what the pipeline adds noise to
        store: sige.Store | None = None,
    ) -> AbstractContextManager[None]:
        """Inside, the pipeline's steps follow the policy; without a policy all run dense."""
        policy = self.policy
        if policy is None:
            return nullcontext()
        policy = replace(policy, dilation=None)  # the region is dilated already
        if isinstance(policy, sige.Lockstep):
            policy = replace(policy, original=original, start=start)
        return self._handles[id(pipe)].edit(self.region, policy, store=store)

    def recording(self, pipe: Any) -> AbstractContextManager[sige.Recording]:
        """Inside, calls of the VAE run dense and are recorded."""
        return self._handles[id(pipe)].record()

    def packed(self, pipe: Any, recording: sige.Recording) -> AbstractContextManager[None]:
        """Inside, calls of the VAE compute the region, and take the rest from the recording."""
        assert self.policy is not None
        exact = self.policy.exact_statistics
        return self._handles[id(pipe)].edit(self.region, blend=[(recording, 1.0)], exact_statistics=exact)

    def passes(self) -> dict[str, Passes]:
        """The passes so far, by component; those of a refiner's own modules have its prefix."""
        found = {name: count() for name, count in self._counts.items()}
        return {name: passes for name, passes in found.items() if passes != Passes()}

    def _own_components(self, pipe: Any) -> dict[str, nn.Module]:
        """The pipeline's modules; a refiner's without those that it shares with its base."""
        base = next(iter(self.pipes.values()))
        shared = set() if pipe is base else set(map(id, _components(base).values()))
        return {name: module for name, module in _components(pipe).items() if id(module) not in shared}


@contextmanager
def _enabled(pipe: Any) -> Iterator[sige.Handle]:
    """Inside, the pipeline is enabled; afterwards it is as it was before."""
    before = sige.handle_of(pipe)
    handle = before or sige.enable(pipe)
    try:
        yield handle
    finally:
        if before is None:
            handle.disable()


def _components(pipe: Any) -> dict[str, nn.Module]:
    return {"unet": pipe.unet, "vae.encoder": pipe.vae.encoder, "vae.decoder": pipe.vae.decoder}


def _counted(handle: sige.Handle, name: str) -> Callable[[], Passes]:
    """A function that returns how many passes the engine has run of a component since this call."""
    before = replace(handle.totals[name])  # a copy: the engine goes on counting in the original

    return lambda: handle.totals[name] - before


def _called(module: nn.Module, stack: ExitStack) -> Callable[[], Passes]:
    """A function that returns how often a module ran, always dense, since this call; the stack ends the counting."""
    passes = Passes()

    def count(*_: Any) -> None:
        passes.dense += 1

    stack.callback(module.register_forward_pre_hook(count).remove)
    return lambda: replace(passes)
