"""A program: the op calls of one packed pass as a flat list, traced once and run again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from sige.packed.features import PackedPass
from sige.packed.layout import IndexName, Layout
from sige.packed.module_state import is_hooked
from sige.packed.prompt import KeyValue, Mark, PromptKeys
from sige.programs.arguments import Path, tensors_of
from sige.programs.trace import (
    BLEND,
    READ,
    Line,
    Projector,
    Trace,
    TracedComponent,
    TracedLayout,
    TracedPrompt,
    TraceError,
)
from sige.recordings import BlendedComponent

__all__ = ["Program", "last_reads", "run_lines", "traced"]

Packed = Callable[[dict[str, Any], PackedPass], Tensor]  # arguments, pass -> [B, N, C_out]


@dataclass(frozen=True)
class Program:
    """The calls of a pass, for the regions whose index tensors have these shapes.

    It holds weights, but nothing that a pass computed.
    """

    lines: tuple[Line, ...]
    forgets: tuple[tuple[int, ...], ...]  # for each line the slots that no later line reads
    slots: tuple[Any, ...]  # what is kept in each slot; None where it is filled at each run
    paths: dict[int, Path]  # of the arguments, by the slot that is filled
    indices: tuple[tuple[int, IndexName, torch.Size], ...]
    projectors: dict[tuple[int, int], Projector]
    returned: int
    kept: dict[str, int]  # the slots of the new rows, where the pass keeps them
    weights: list[nn.Parameter]
    addresses: list[int]  # of the weights
    _maps: WeakKeyDictionary[Layout, list[Tensor]] = field(default_factory=WeakKeyDictionary)
    _prompts: WeakKeyDictionary[Mark, list[KeyValue]] = field(default_factory=WeakKeyDictionary)

    def fits(self, layout: Layout) -> bool:
        """Says whether the region's index tensors have the program's shapes, and no weight was moved."""
        return self._maps_of(layout) is not None and list(map(Tensor.data_ptr, self.weights)) == self.addresses

    def _maps_of(self, layout: Layout) -> list[Tensor] | None:
        """The region's index tensors, None where one has another shape."""
        found = self._maps.get(layout)
        if found is None:
            found = [layout.read(name) for _, name, _ in self.indices]
            if any(index.shape != shape for index, (*_, shape) in zip(found, self.indices, strict=True)):
                return None
            self._maps[layout] = found
        return found

    def run(self, arguments: dict[str, Any], packed_pass: PackedPass) -> Tensor:  # [B, N, C_out]
        """The output at the active positions, as the layers would return it, bit for bit."""
        slots = self.filled(arguments, packed_pass)
        run_lines(self.lines, self.forgets, slots)
        for key, slot in self.kept.items():
            packed_pass.keep(key, slots[slot])
        output: Tensor = slots[self.returned]
        return output

    def filled(self, arguments: dict[str, Any], packed_pass: PackedPass) -> list[Any]:
        """The slots as a run begins with them."""
        slots = list(self.slots)
        slots[READ], slots[BLEND] = packed_pass.recorded.read, packed_pass.recorded.factors
        tensors = tensors_of(arguments)
        for slot, path in self.paths.items():
            slots[slot] = tensors[path]
        for (slot, *_), index in zip(self.indices, self._maps_of(packed_pass.layout) or (), strict=True):
            slots[slot] = index
        for (key, value), pair in zip(self.projectors, self._pairs_of(packed_pass.prompt), strict=True):
            slots[key], slots[value] = pair
        return slots

    def _pairs_of(self, prompt: PromptKeys) -> list[KeyValue]:
        """The prompt's keys and values. A program ends when weights change, so they are the same for one prompt."""
        found = self._prompts.get(prompt.mark)
        if found is None:
            found = self._prompts[prompt.mark] = [prompt.project(*projector) for projector in self.projectors.values()]
        return found

    @property
    def source(self) -> str:
        """The program as text, a line for each call."""
        names = {READ: "recorded", BLEND: "blend"}
        names |= {slot: ".".join(map(str, path)) for slot, path in self.paths.items()}
        names |= {slot: f"{name.kind}{slot}" for slot, name, _ in self.indices}
        names |= {slot: f"prompt{slot}" for pair in self.projectors for slot in pair}
        filled = {slot for line in self.lines for slot in line.fills}
        names |= {slot: f"r{slot}" for slot in filled}
        for slot, value in enumerate(self.slots):
            names.setdefault(slot, f"w{slot}" if isinstance(value, Tensor) else repr(value))
        return "\n".join(_text(line, names) for line in self.lines)


def _text(line: Line, names: dict[int, str]) -> str:
    results, reads = (", ".join(names[slot] for slot in slots) for slots in (line.fills, line.reads))
    return f"{results}{' = ' if results else ''}{line.name}({reads})"


def traced(
    packed: Packed,
    module: nn.Module,
    arguments: dict[str, Any],
    packed_pass: PackedPass,
) -> tuple[Tensor, Program]:  # [B, N, C_out]
    """Runs the packed pass, and returns its output and the program that would compute it again."""
    parts = list(module.modules())
    if any(map(is_hooked, parts[1:])):
        raise TraceError("a module has a hook, which must run in every pass")
    weights = [weight for part in parts for weight in part._parameters.values() if weight is not None]
    buffers = [buffer for part in parts for buffer in part._buffers.values() if buffer is not None]
    trace = Trace(packed_pass.recorded.factors)
    trace.add_weights([*weights, *buffers])
    others = trace.add_arguments(tensors_of(arguments))
    kept: dict[str, Tensor] = {}
    watched = PackedPass(
        TracedLayout(packed_pass.layout, trace),
        _watched(packed_pass.recorded, trace),
        packed_pass.exact_statistics,
        TracedPrompt(packed_pass.prompt, trace),
        None if packed_pass.kept is None else kept,
    )
    with trace:
        output = packed(_with(arguments, others), watched)
    for key, rows in kept.items():
        packed_pass.keep(key, rows)
    returned, slots = trace.slot_of(output), {key: trace.slot_of(rows) for key, rows in kept.items()}
    program = Program(
        lines=tuple(trace.lines),
        forgets=last_reads(trace.lines, {returned, *slots.values()}),
        slots=tuple(trace.slots),
        paths=trace.paths,
        indices=tuple((slot, name, packed_pass.layout.read(name).shape) for slot, name in trace.indices.items()),
        projectors=trace.projectors,
        returned=returned,
        kept=slots,
        weights=weights,
        addresses=[weight.data_ptr() for weight in weights],
    )
    return output, program


def _watched(recorded: BlendedComponent, trace: Trace) -> TracedComponent:
    return TracedComponent(recorded.name, recorded.terms, recorded._factors, trace=trace)


def _with(value: Any, others: dict[Path, Tensor], path: Path = ()) -> Any:
    """The arguments with other tensors at some paths."""
    if path in others:
        return others[path]
    if isinstance(value, dict):
        return {name: _with(one, others, (*path, name)) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_with(one, others, (*path, place)) for place, one in enumerate(value))
    return value


def run_lines(lines: Sequence[Line], forgets: Sequence[Sequence[int]], slots: list[Any]) -> None:
    """Calls line after line; after each it empties the slots that no later line reads."""
    for line, forgotten in zip(lines, forgets, strict=True):
        result = line.call(*[slots[slot] for slot in line.reads])
        if line.unpacks:
            for slot, one in zip(line.fills, result, strict=True):
                slots[slot] = one
        elif line.fills:
            slots[line.fills[0]] = result
        del result
        for slot in forgotten:
            slots[slot] = None


def last_reads(lines: Sequence[Line], kept: set[int]) -> tuple[tuple[int, ...], ...]:
    """For each line the slots that lines fill and no later line reads: a tensor lives as long as among the layers."""
    filled = {slot for line in lines for slot in line.fills} - kept
    last = {slot: at for at, line in enumerate(lines) for slot in (*line.fills, *line.reads)}
    forgotten: list[list[int]] = [[] for _ in lines]
    for slot in filled:
        forgotten[last[slot]].append(slot)
    return tuple(map(tuple, forgotten))
