"""An attachment: what stands in for a module's forward while it is enabled, and which calls it hands to a context.

    module.forward = Attachment      outside contexts: diffusers' own forward, untouched
                                     inside one: the context's function gets a `Call` and returns what forward would

Pipelines share modules (a refiner has its base's VAE), so handles share attachments: a module has one, it counts the
handles that hold it, and the last one that lets go gives the module its own forward and weight layout back.
"""

from __future__ import annotations

import copy
import inspect
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sige.compiled import Compilation
from sige.errors import RecordingError, UnsupportedError
from sige.forward import Forward
from sige.models import Component, Part
from sige.packed.module_state import Watch
from sige.passes import Call, Passes
from sige.programs import Programs

__all__ = ["Attachment", "Claim", "attached"]


@dataclass(frozen=True)
class Claim:
    """A context that is open: whose calls it takes, and what it does with each."""

    context: str
    thread: int
    take: Callable[[Call], Any]


def attached(module: nn.Module) -> Attachment | None:
    """The attachment of a module that is enabled."""
    forward = module.__dict__.get("forward")
    return forward if isinstance(forward, Attachment) else None


class Attachment:
    """One module's stand-in forward, shared by the handles that have it enabled."""

    def __init__(self, part: Part) -> None:
        self.name = part.name
        self.role = part.role
        self.module = part.module
        self.handles: list[Any] = []
        self.claim: Claim | None = None
        self.passes = Passes()  # of every call since it was attached, inside contexts and outside
        self.programs = Programs()
        self._walks, self._required = part.walk, part.required
        self._component: Component | None = None
        self._watch: Watch | None = None
        self._changed = False  # since a context or a handle last looked
        self._formats: list[nn.Conv2d] = []
        self.original: Callable[..., Any] = part.module.forward
        self.forward = Forward(self.original)
        if part.required:
            self._walk()
        self._lay_out()
        self._signature = inspect.signature(self.original)
        self._replaced = part.module.__dict__.get("forward")  # what another library had put in its place
        part.module.forward = self

    # ---- the module -------------------------------------------------------------------------------------------------

    def component(self) -> Component:
        """The module as a packed component; a module that enable() does not require is walked on the first use."""
        return self._component or self._walk()

    def look(self) -> bool:
        """Says whether modules or weights have changed since the last look.

        A module whose parts changed (a LoRA, a hook or a processor came or went) is walked again, and refused where it
        cannot run packed.
        """
        changed, self._changed = self._look() or self._changed, False
        return changed

    def _look(self) -> bool:
        if self._watch is None:
            if self._required:
                self._walk()
            return False
        if self._watch.has_other_parts():
            self._walk()
            return True
        if self._watch.has_other_weights():
            self._watch = Watch(self.module)  # of the new parameters
            self.programs.clear()
            return True
        return False

    def _walk(self) -> Component:
        self._component = self._watch = None
        self.programs.clear()
        self.forward.reset()
        if any(module._compiled_call_impl is not None for module in self.module.modules()):
            raise UnsupportedError(
                f"{self.name}: compile() was called on it, and a compiled model can neither be recorded nor run "
                "packed: take a model that is not compiled, and call handle.compile()"
            )
        component = self._walks()
        self._lay_out()
        self.forward.prepare(component)
        self._component, self._watch = component, Watch(self.module)
        return component

    def compile(self, compilation: Compilation | None) -> None:
        """Compiles dense and recorded passes, or runs them uncompiled again.

        A module that enable() does not require, and that cannot be recorded, runs as it is until it can.
        """
        self.forward.compilation = compilation
        try:
            self._changed |= self._look()
            self._walk()
        except UnsupportedError:
            if self._required:
                self.forward.compilation = None
                raise

    def _lay_out(self) -> None:
        """Makes convolution weights channels-last, which packed and recorded passes read without a copy."""
        with torch.inference_mode(False):
            for module in self.module.modules():
                if isinstance(module, nn.Conv2d) and not _is_channels_last(module.weight):
                    module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
                    self._formats.append(module)

    def detach(self) -> None:
        """Gives the module its own forward and weight layout back, bit for bit."""
        if attached(self.module) is self:  # else another library has wrapped it since; its wrapper calls ours
            del self.module.forward
            if self._replaced is not None:
                self.module.forward = self._replaced
        with torch.inference_mode(False):
            for module in self._formats:
                module.weight.data = module.weight.data.contiguous()
        self._formats.clear()
        self.forward.reset()
        self.programs.clear()
        self._component = self._watch = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """The forward of the module's copy, which nobody has enabled."""
        self.forward.taps.remove_from_copies(memo)  # its parts are copied before its forward is
        return copy.deepcopy(self.original, memo)

    def check_free(self, context: str, name: str) -> None:
        """Refuses what is inside a context of another pipeline."""
        if self.claim is not None:
            raise RecordingError(
                f"{context}: {name} is shared with another pipeline, which is inside "
                f"`with handle.{self.claim.context}(...)`: leave that first"
            )

    # ---- one call ---------------------------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        claim = self.claim
        if claim is None:
            self.passes.dense += 1
            return self._outside().dense(args, kwargs)
        if claim.thread != threading.get_ident():
            raise RecordingError(
                f"{self.name}: called while another thread is inside `with handle.{claim.context}(...)`: wait for it, "
                "or give each thread a model of its own"
            )
        changed = self.look()
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        component = self.component()
        call = Call(component, self.forward, args, kwargs, bound.arguments, self.passes, changed, self.programs)
        self._refuse_autocast(call)
        return claim.take(call)

    def _outside(self) -> Forward:
        """The forward outside contexts. What changed and cannot be recorded by now runs uncompiled."""
        if self.forward.compilation is not None:
            try:
                self._changed |= self._look()
            except UnsupportedError:
                self._changed = True
                return self.forward.uncompiled()
        return self.forward

    def _refuse_autocast(self, call: Call) -> None:
        device = call.sample.device.type
        if device != "meta" and torch.is_autocast_enabled(device):
            raise UnsupportedError(
                f"{self.name}: called under torch.autocast, which changes dtypes from layer to layer: leave it out "
                "and load the model in fp16 or bf16"
            )


def _is_channels_last(weight: Tensor) -> bool:  # [C_out, C, kh, kw]
    return weight.dim() != 4 or weight.is_contiguous(memory_format=torch.channels_last)
