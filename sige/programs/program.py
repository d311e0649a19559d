"""A program: the op calls of one packed pass as Python source without branches, compiled once and run again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from sige.packed.features import PackedPass
from sige.packed.layout import IndexName, Layout
from sige.packed.module_state import is_hooked
from sige.programs.arguments import Path, tensors_of
from sige.programs.trace import Line, Projector, Trace, TracedComponent, TracedLayout, TracedPrompt, TraceError

__all__ = ["Program", "traced"]

Packed = Callable[[dict[str, Any], PackedPass], Tensor]  # arguments, pass -> [B, N, C_out]


@dataclass(frozen=True)
class Program:
    """The calls of a pass, for the regions whose index tensors have these shapes.

    It holds weights, but nothing that a pass computed.
    """

    source: str
    ops: int
    paths: tuple[Path, ...]  # of the arguments that it reads
    indices: tuple[tuple[IndexName, torch.Size], ...]
    projectors: tuple[Projector, ...]
    kept: tuple[str, ...]  # keys of the new rows that it returns after the output
    _function: Callable[..., tuple[Tensor, ...]]
    _weights: list[nn.Parameter]
    _addresses: list[int]  # of the weights
    _maps: WeakKeyDictionary[Layout, list[Tensor]] = field(default_factory=WeakKeyDictionary)

    def fits(self, layout: Layout) -> bool:
        """Says whether the region's index tensors have the program's shapes, and no weight was moved."""
        return self._maps_of(layout) is not None and [w.data_ptr() for w in self._weights] == self._addresses

    def _maps_of(self, layout: Layout) -> list[Tensor] | None:
        """The region's index tensors, None where one has another shape."""
        found = self._maps.get(layout)
        if found is None:
            found = [layout.read(name) for name, _ in self.indices]
            if any(index.shape != shape for index, (_, shape) in zip(found, self.indices, strict=True)):
                return None
            self._maps[layout] = found
        return found

    def run(self, arguments: dict[str, Any], packed_pass: PackedPass) -> Tensor:  # [B, N, C_out]
        """The output at the active positions, as the layers would return it, bit for bit."""
        tensors = tensors_of(arguments)
        recorded = packed_pass.recorded
        prompt = [rows for projector in self.projectors for rows in packed_pass.prompt.project(*projector)]
        output, *kept = self._function(
            [tensors[path] for path in self.paths],
            self._maps_of(packed_pass.layout),
            prompt,
            recorded.read,
            recorded.weights,
        )
        for key, rows in zip(self.kept, kept, strict=True):
            packed_pass.keep(key, rows)
        return output


def traced(
    packed: Packed,
    module: nn.Module,
    arguments: dict[str, Any],
    packed_pass: PackedPass,
) -> tuple[Tensor, Program]:  # [B, N, C_out]
    """Runs the packed pass, and returns its output and the program that would compute it again."""
    if any(part is not module and is_hooked(part) for part in module.modules()):
        raise TraceError("a module has a hook, which must run in every pass")
    trace = Trace(packed_pass.recorded.weights)
    trace.add_weights(module)
    others = trace.add_arguments(tensors_of(arguments))
    kept: dict[str, Tensor] | None = None if packed_pass.kept is None else {}
    watched = PackedPass(
        TracedLayout(packed_pass.layout, trace),
        TracedComponent(packed_pass.recorded.name, packed_pass.recorded.terms, trace),
        packed_pass.exact_statistics,
        TracedPrompt(packed_pass.prompt, trace),
        kept,
    )
    with trace:
        output = packed(_with(arguments, others), watched)
    returned = [trace.register_of(rows) for rows in (output, *(kept or {}).values())]
    for key, rows in (kept or {}).items():
        packed_pass.keep(key, rows)
    source = source_of(trace.lines, returned)
    weights = list(module.parameters())
    indices = tuple((name, packed_pass.layout.read(name).shape) for name in trace.indices)
    function = _compiled(source, {**trace.ops, "w": trace.constants})
    program = Program(
        source, len(trace.lines), tuple(trace.paths), indices, tuple(trace.projectors), tuple(kept or {}), function,
        weights, [weight.data_ptr() for weight in weights],
    )  # fmt: skip
    return output, program


def _with(value: Any, others: dict[Path, Tensor], path: Path = ()) -> Any:
    """The arguments with other tensors at some paths."""
    if path in others:
        return others[path]
    if isinstance(value, dict):
        return {name: _with(one, others, (*path, name)) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_with(one, others, (*path, place)) for place, one in enumerate(value))
    return value


def source_of(lines: list[Line], returned: list[int]) -> str:
    """The lines as a function that forgets each tensor after its last reader, as the layers do."""
    last = {register: at for at, line in enumerate(lines) for register in line.reads}
    keep = set(returned)
    text = ["def program(a, m, p, read, blend):"]
    for at, line in enumerate(lines):
        results = ", ".join(f"r{one}" if one in last or one in keep else "_" for one in line.results)
        comma = "," if line.unpacks and len(line.results) == 1 else ""
        text.append(f"    {results}{comma} = {line.code}" if results else f"    {line.code}")
        done = [f"r{one}" for one in sorted(line.reads) if last[one] == at and one not in keep]
        if done:
            text.append(f"    del {', '.join(done)}")
    text.append(f"    return {', '.join(f'r{one}' for one in returned)},")
    return "\n".join(text)


def _compiled(source: str, names: dict[str, Any]) -> Callable[..., tuple[Tensor, ...]]:
    exec(compile(source, "<a packed pass>", "exec"), names)  # noqa: S102  the source is made above, of op names
    function: Callable[..., tuple[Tensor, ...]] = names["program"]
    return function
