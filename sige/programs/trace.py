"""A trace: it watches one packed pass, and writes down each op that is called as a line of a program.

    value that an op reads         the slot where the program finds it
    the call's arguments           filled at each run, by their path
    index tensors of the region    filled at each run, by their name in the layout
    the prompt's keys and values   filled at each run, computed once per prompt
    weights of the blend           filled at each run
    recorded rows and sums         filled by a line, when the pass reads them: some are decoded only then
    what another op returned       filled by its line
    weights, views of them         kept: a program ends when weights change
    numbers, shapes, dtypes        kept

Whatever else an op reads is a tensor that Python made out of sight; then there is no program.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sige.packed.layout import IndexName, Layout
from sige.packed.prompt import KeyValue, PromptKeys
from sige.programs.arguments import Path
from sige.recordings import BlendedComponent

__all__ = ["Line", "Trace", "TraceError", "TracedComponent", "TracedLayout", "TracedPrompt"]

NOBODY_READS = "aten::_scaled_dot_product"  # ops that return numbers, too, which only a backward pass would read
SMALL = 1 << 12  # elements of a result of constants that is kept; larger ones are made anew, unless they are views
READ, BLEND = 0, 1  # slots: the function that reads recordings, the weights of the blend
READS, LISTS = "read", "list"  # names of lines that call no op
_T = TypeVar("_T")
Projector = tuple[nn.Module, nn.Module, Callable[[Tensor], KeyValue]]  # the arguments of `PromptKeys.project`


class TraceError(Exception):
    """The pass does something that a program cannot do again; the message says what."""


@dataclass(frozen=True)
class Line:
    """One line of a program: it calls something with what lies in some slots, and fills others with the result."""

    call: Callable[..., Any]
    name: str
    reads: tuple[int, ...]
    fills: tuple[int, ...]
    unpacks: bool = False  # the call returns a tuple
    writes: tuple[int, ...] = ()  # of what it reads, what it writes to


class Trace(TorchDispatchMode):
    """Inside `with trace:` ops run as they are, and become lines."""

    def __init__(self, factors: Tensor) -> None:  # fp64 [K], the weights of the blend
        super().__init__()
        self.slots: list[Any] = [None, None]  # what is kept in each; None where it is filled at each run
        self.lines: list[Line] = []
        self.paths: dict[int, Path] = {}  # by the slot that is filled
        self.indices: dict[int, IndexName] = {}
        self.projectors: dict[tuple[int, int], Projector] = {}
        self._slot_of: dict[int, tuple[weakref.ref[Tensor], int]] = {}  # by the tensor's id, which may be used again
        self._kept: set[int] = set()  # slots of constants
        self._made: set[int] = set()  # slots of what ops returned
        self._numbers: dict[Any, int] = {}  # slots of constants that are no tensors
        self._storages: set[int] = set()  # of weights
        self._paused = False
        self._slot_of[id(factors)] = weakref.ref(factors), BLEND

    # ---- inputs -----------------------------------------------------------------------------------------------------

    def add_weights(self, weights: Iterable[Tensor]) -> None:
        """Makes parameters and buffers known."""
        for tensor in weights:
            self._keep(tensor)
            self._storages.add(tensor.untyped_storage().data_ptr())

    def add_arguments(self, tensors: dict[Path, Tensor]) -> dict[Path, Tensor]:
        """Makes the tensors known; returns other objects for them, so that one tensor passed twice is two arguments."""
        others = {path: tensor.detach() for path, tensor in tensors.items()}
        self.paths = {self._fill(other): path for path, other in others.items()}
        return others

    def add_read(self, tensor: Tensor, kind: str, term: int, key: str) -> Tensor:
        """Writes the line that reads from a recording, and returns another object for the tensor that was read."""
        other = self.aside(tensor.detach)
        reads = (READ, *(self._number(value) for value in (kind, term, key)))
        self.lines.append(Line(_call, READS, reads, (self._fill(other),)))
        return other

    def add_index(self, tensor: Tensor, name: IndexName) -> None:
        """Makes an index tensor known."""
        if self._find(tensor) is None:
            self.indices[self._fill(tensor)] = name

    def add_prompt(self, pair: KeyValue, projector: Projector) -> KeyValue:
        """Makes the prompt's keys and values known; returns other objects for them."""
        key, value = self.aside(lambda: (pair[0].detach(), pair[1].detach()))
        self.projectors[self._fill(key), self._fill(value)] = projector
        return key, value

    def aside(self, action: Callable[[], _T]) -> _T:
        """Runs the action without writing lines."""
        before, self._paused = self._paused, True
        try:
            return action()
        finally:
            self._paused = before

    # ---- ops --------------------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._paused:
            return func(*args, **kwargs)
        schema = func._schema
        if torch.Tag.nondeterministic_seeded in func.tags and _drops(schema, args, kwargs):
            raise TraceError(f"{func} draws random numbers")
        reads = tuple(map(self._slot, args))
        writes = self._written(func, reads) if schema.is_mutable else ()
        call = partial(func, **{name: self._constant(value) for name, value in kwargs.items()}) if kwargs else func
        result = func(*args, **kwargs)
        unpacks = isinstance(result, tuple | list)
        results = list(result) if unpacks else [] if result is None else [result]
        if not (schema.name.startswith(NOBODY_READS) or all(one is None or isinstance(one, Tensor) for one in results)):
            raise TraceError(f"{func} gives Python a number, on which the pass may depend")
        if not schema.is_mutable and self._kept.issuperset(reads) and all(self._is_kept(one, args) for one in results):
            for one in results:
                self._keep(one)
        elif schema.is_mutable and all(self._find(one) is not None for one in results):
            self.lines.append(Line(call, schema.name, reads, (), writes=writes))  # it returns what it wrote to
        else:
            fills = tuple([self._fill(one if isinstance(one, Tensor) else None) for one in results])
            self._made.update(fills)
            self.lines.append(Line(call, schema.name, reads, fills, unpacks, writes))
        return result

    def _written(self, func: Any, reads: tuple[int, ...]) -> tuple[int, ...]:
        """The slots that an op writes to: what another op of the pass returned, and nothing else."""
        written = []
        for argument, slot in zip(func._schema.arguments, reads, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                if slot not in self._made:
                    raise TraceError(f"{func} writes to an input or to a weight")
                written.append(slot)
        return tuple(written)

    def _is_kept(self, result: Tensor | None, args: Any) -> bool:
        """Says whether a result of constants is kept: a view of them, or a few numbers that no weight is part of."""
        if result is None:
            return False
        own = result.untyped_storage().data_ptr()
        read = {value.untyped_storage().data_ptr() for value in args if isinstance(value, Tensor)}
        return own in read or (result.numel() <= SMALL and not read & self._storages)

    # ---- slots ------------------------------------------------------------------------------------------------------

    def slot_of(self, tensor: Tensor) -> int:
        """The slot of a result of the pass."""
        slot = self._slot(tensor)
        if slot not in self._made:
            raise TraceError("the pass returns one of its inputs")
        return slot

    def _slot(self, value: Any) -> int:
        if isinstance(value, Tensor):
            slot = self._find(value)
            if slot is None:
                shape = tuple(value.shape)
                raise TraceError(f"a layer reads a tensor {shape} that is no argument, no weight, nor was recorded")
            return slot
        if isinstance(value, list | tuple) and any(isinstance(one, Tensor) for one in value):
            slot = self._new(None)
            self.lines.append(Line(_list, LISTS, tuple(map(self._slot, value)), (slot,)))
            return slot
        return self._number(value)

    def _find(self, tensor: Tensor | None) -> int | None:
        found = self._slot_of.get(id(tensor))
        return found[1] if found is not None and found[0]() is tensor else None

    def _fill(self, tensor: Tensor | None) -> int:
        """A new slot, which is filled at each run."""
        slot = self._new(None)
        if tensor is not None:
            self._slot_of[id(tensor)] = weakref.ref(tensor), slot
        return slot

    def _keep(self, tensor: Tensor | None) -> None:
        """A new slot, in which the tensor stays."""
        if tensor is not None:
            slot = self._new(tensor)
            self._kept.add(slot)
            self._slot_of[id(tensor)] = weakref.ref(tensor), slot

    def _number(self, value: Any) -> int:
        """The slot of a value that is no tensor."""
        key = type(value), repr(value)
        if key not in self._numbers:
            self._numbers[key] = self._new(value)
            self._kept.add(self._numbers[key])
        return self._numbers[key]

    def _constant(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            raise TraceError("an op gets a tensor by name")
        return value

    def _new(self, value: Any) -> int:
        self.slots.append(value)
        return len(self.slots) - 1


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def _list(*values: Any) -> list[Any]:
    return list(values)


def _drops(schema: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    """Says whether an op that may draw random numbers does: attention draws only where it drops some."""
    names = [argument.name for argument in schema.arguments]
    if "dropout_p" not in names:
        return True
    return bool((dict(zip(names, args, strict=False)) | kwargs).get("dropout_p", 0.0))


@dataclass(frozen=True)
class TracedComponent(BlendedComponent):
    """Recordings whose reads become lines."""

    trace: Trace = field(kw_only=True)

    def read(self, kind: str, term: int, key: str) -> Tensor:
        trace, read = self.trace, super().read
        return trace.add_read(trace.aside(lambda: read(kind, term, key)), kind, term, key)


class TracedLayout(Layout):
    """Index tensors, which are inputs of a program, and no part of it."""

    def __init__(self, layout: Layout, trace: Trace) -> None:
        super().__init__(layout.region, layout.device)
        self._layout, self._trace = layout, trace

    def read(self, name: IndexName) -> Tensor:
        tensor = self._trace.aside(lambda: self._layout.read(name))
        self._trace.add_index(tensor, name)
        return tensor


class TracedPrompt(PromptKeys):
    """The prompt's keys and values, which are inputs of a program and no part of it."""

    def __init__(self, prompt: PromptKeys, trace: Trace) -> None:
        super().__init__(prompt.text)
        self._prompt, self._trace = prompt, trace

    def project(self, key: nn.Module, value: nn.Module, make: Callable[[Tensor], KeyValue]) -> KeyValue:
        pair = self._trace.aside(lambda: self._prompt.project(key, value, make))
        return self._trace.add_prompt(pair, (key, value, make))
