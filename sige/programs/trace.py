"""A trace: it watches one packed pass, and writes down each op that is called as a line of a program.

    tensor that an op reads        where the program finds it
    the call's arguments           a[i], by their path
    index tensors of the region    m[i], by their name in the layout
    recorded rows and sums         read(kind, term, key), when the pass reads them: some are decoded only then
    the prompt's keys and values   p[i], computed once per prompt
    weights, and views of them     w[i], kept: a program ends when weights change
    what another op returned       r7

Whatever else an op reads is a tensor that Python made out of sight; then there is no program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from sige.packed.layout import IndexName, Layout
from sige.packed.prompt import KeyValue, PromptKeys
from sige.programs.arguments import Path
from sige.recordings import BlendedComponent

__all__ = ["Line", "Trace", "TracedComponent", "TracedLayout", "TracedPrompt", "TraceError"]

BLENDS = {"sige::blend_rows": 1, "sige::norm_affine": 2}  # op -> place of its argument that holds the blend's weights
SMALL = 1 << 12  # elements of a result of constants that is kept; larger ones are made anew, unless they are views
_T = TypeVar("_T")
Projector = tuple[nn.Module, nn.Module, Callable[[Tensor], KeyValue]]  # the arguments of `PromptKeys.project`


class TraceError(Exception):
    """The pass does something that a program cannot do again; the message says what."""


@dataclass
class Line:
    """One line of a program: `results = code`."""

    results: list[int]  # registers
    code: str
    reads: set[int]  # registers
    unpacks: bool = False  # the code returns a tuple


class Trace(TorchDispatchMode):
    """Inside `with trace:` ops run as they are, and become lines."""

    def __init__(self, weights: list[float]) -> None:  # of the blend
        super().__init__()
        self.weights = weights
        self.lines: list[Line] = []
        self.constants: list[Any] = []
        self.ops: dict[str, Any] = {}  # name in the program -> op
        self.paths: list[Path] = []
        self.indices: list[IndexName] = []
        self.projectors: list[Projector] = []
        self._names: Any = WeakIdKeyDictionary()  # tensor -> its expression; entries go with their tensors
        self._storages: set[int] = set()  # of weights
        self._paused = False
        self._registers = 0

    # ---- inputs -----------------------------------------------------------------------------------------------------

    def add_weights(self, module: nn.Module) -> None:
        """Makes the module's parameters and buffers known."""
        for tensor in (*module.parameters(), *module.buffers()):
            self._names[tensor] = self._constant(tensor)
            self._storages.add(tensor.untyped_storage().data_ptr())

    def add_arguments(self, tensors: dict[Path, Tensor]) -> dict[Path, Tensor]:
        """Makes the tensors known; returns other objects for them, so that one tensor passed twice is two arguments."""
        others = {}
        for path, tensor in tensors.items():
            others[path] = other = tensor.detach()
            self._names[other] = f"a[{len(self.paths)}]"
            self.paths.append(path)
        return others

    def add_read(self, tensor: Tensor, kind: str, term: int, key: str) -> Tensor:
        """Writes the line that reads from a recording, and returns another object for the tensor that was read."""
        other = self.aside(tensor.detach)
        self._write(f"read({kind!r}, {term}, {key!r})", [other], set())
        return other

    def add_index(self, tensor: Tensor, name: IndexName) -> None:
        """Makes an index tensor known."""
        if tensor not in self._names:
            self._names[tensor] = f"m[{len(self.indices)}]"
            self.indices.append(name)

    def add_prompt(self, pair: KeyValue, projector: Projector) -> KeyValue:
        """Makes the prompt's keys and values known; returns other objects for them."""
        others = self.aside(lambda: (pair[0].detach(), pair[1].detach()))
        for one, other in enumerate(others):
            self._names[other] = f"p[{2 * len(self.projectors) + one}]"
        self.projectors.append(projector)
        return others

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
        given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
        if torch.Tag.nondeterministic_seeded in func.tags and _drops(func, given):
            raise TraceError(f"{func} draws random numbers")
        reads: set[int] = set()
        place = BLENDS.get(func._schema.name)
        texts = [self._blend(value) if at == place else self._text(value, reads) for at, value in enumerate(args)]
        texts += [f"{name}={self._text(value, reads)}" for name, value in kwargs.items()]
        result = func(*args, **kwargs)
        results = list(result) if isinstance(result, tuple | list) else [] if result is None else [result]
        if not all(one is None or isinstance(one, Tensor) for one in results):
            raise TraceError(f"{func} gives Python a number, on which the pass may depend")
        writes = func._schema.is_mutable
        if not reads and not writes and self._is_constant(texts) and all(self._is_kept(one, args) for one in results):
            for one in results:
                self._names[one] = self._constant(one)
            return result
        if writes:
            self._check_written(func, given)
        known = [self._names.get(one) for one in results if one is not None]
        code = f"{self._op(func)}({', '.join(texts)})"
        if writes and known and all(known):  # an op that returns what it wrote to
            self.lines.append(Line([], code, reads))
        else:
            self._write(code, results, reads, isinstance(result, tuple | list))
        return result

    def _check_written(self, func: Any, given: dict[str, Any]) -> None:
        """An op may write to what another op of the pass returned, and to nothing else."""
        for argument in func._schema.arguments:
            written = given.get(argument.name)
            if argument.alias_info is None or not argument.alias_info.is_write or written is None:
                continue
            if not self._text(written, set()).startswith("r"):
                raise TraceError(f"{func} writes to an input or to a weight")

    def _is_kept(self, result: Tensor | None, args: Any) -> bool:
        """Says whether a result of constants is kept: a view of them, or a few numbers that no weight is part of."""
        if result is None:
            return False
        own = result.untyped_storage().data_ptr()
        read = {value.untyped_storage().data_ptr() for value in args if isinstance(value, Tensor)}
        return own in read or (result.numel() <= SMALL and not read & self._storages)

    def _is_constant(self, texts: Iterable[str]) -> bool:
        return not any(mark in text for text in texts for mark in ("a[", "m[", "p[", "blend"))

    # ---- text -------------------------------------------------------------------------------------------------------

    def _write(self, code: str, results: list[Tensor | None], reads: set[int], unpacks: bool = False) -> None:
        registers = []
        for one in results:
            registers.append(self._registers)
            if one is not None:
                self._names[one] = f"r{self._registers}"
            self._registers += 1
        self.lines.append(Line(registers, code, reads, unpacks))

    def _text(self, value: Any, reads: set[int]) -> str:
        """The expression for an argument; adds the registers in it to `reads`."""
        if isinstance(value, Tensor):
            return self._name(value, reads)
        if isinstance(value, list | tuple):
            inner = ", ".join(self._text(one, reads) for one in value)
            return f"[{inner}]" if isinstance(value, list) else f"({inner},)"
        if value is None or isinstance(value, bool | int | str):
            return repr(value)
        return self._constant(value)  # a float, too: its text could be inf

    def _name(self, tensor: Tensor, reads: set[int]) -> str:
        name: str | None = self._names.get(tensor)
        if name is None:
            shape = tuple(tensor.shape)
            raise TraceError(f"a layer reads a tensor {shape} that is no argument, no weight, nor was recorded")
        if name.startswith("r"):
            reads.add(int(name[1:]))
        return name

    def _blend(self, weights: list[float]) -> str:
        if weights != self.weights:
            raise TraceError(f"a blend of {len(self.weights)} recordings is summed in parts")
        return "blend"

    def _constant(self, value: Any) -> str:
        self.constants.append(value)
        return f"w[{len(self.constants) - 1}]"

    def register_of(self, tensor: Tensor) -> int:
        """The register of a result of the pass."""
        reads: set[int] = set()
        self._name(tensor, reads)
        if not reads:
            raise TraceError("the pass returns one of its inputs")
        return reads.pop()

    def _op(self, func: Any) -> str:
        name = str(func).replace(".default", "").replace(".", "_")
        self.ops[name] = func
        return name


def _drops(func: Any, given: dict[str, Any]) -> bool:
    """Says whether an op that may draw random numbers does: attention draws only where it drops some."""
    return all(argument.name != "dropout_p" for argument in func._schema.arguments) or given.get("dropout_p", 0.0) > 0


@dataclass(frozen=True)
class TracedComponent(BlendedComponent):
    """Recordings whose reads become lines."""

    trace: Trace | None = None

    def read(self, kind: str, term: int, key: str) -> Tensor:
        assert self.trace is not None
        trace, read = self.trace, super().read
        return trace.add_read(trace.aside(lambda: read(kind, term, key)), kind, term, key)


class TracedLayout(Layout):
    """Index tensors, which are inputs of a program, and no part of it."""

    def __init__(self, layout: Layout, trace: Trace) -> None:
        super().__init__(layout.region, layout.device)
        self._layout, self._trace = layout, trace

    def read(self, name: IndexName) -> Tensor:
        tensor: Tensor = self._trace.aside(lambda: self._layout.read(name))
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
