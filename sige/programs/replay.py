"""A replay: a program whose tensors stay where they are, so that a CUDA graph can run it in one call.

    reads of recordings              copied into the arena when the recordings are others
    lines that read nothing but      run when recordings or region are others; their results are copied into
      recordings and the region        fixed buffers
    the region's index tensors,      copied into fixed buffers when they are others
      the prompt's keys and values
    arguments, weights of the blend  copied into fixed buffers before each replay
    all other lines                  captured once, then replayed

On CUDA a capture is a graph. Elsewhere there is nothing to capture; the tests pass a capture that runs the lines again
and checks that each tensor is where it was.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Sequence
from operator import is_
from typing import Any

import torch
from torch import Tensor

from sige.packed.features import PackedPass
from sige.packed.layout import Layout
from sige.programs.arena import Arena, Slot, like
from sige.programs.program import Program, last_reads, run_lines
from sige.programs.trace import BLEND, LISTS, READ, READS, Line, TraceError
from sige.recordings import ComponentRecording

__all__ = ["Body", "Capture", "CudaCapture", "Replay", "split"]

Body = Callable[[], list[Tensor]]
Capture = Callable[[Body], tuple[list[Tensor], Callable[[], None]]]  # -> results, and what writes them anew


class CudaCapture:
    """Captures bodies as CUDA graphs.

    What lives inside one graph only shares memory with the others: no two run at a time. Results keep their own.
    """

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, body: Body) -> tuple[list[Tensor], Callable[[], None]]:
        """Captures the body. Before, it runs once on another stream: libraries set themselves up."""
        side, current = torch.cuda.Stream(), torch.cuda.current_stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):
            body()
        current.wait_stream(side)
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            results = body()
        return results, graph.replay


class Replay:
    """One program with its buffers and its capture."""

    def __init__(self, program: Program, arena: Arena, size: Hashable, capture: Capture) -> None:
        self.program = program
        self._arena, self._size, self._capture = arena, size, capture
        self._settled, self.body = split(program)
        read = {slot for line in self.body for slot in line.reads}
        self._reads: dict[int, Slot] = _recorded(program, self._settled)
        made = {slot for line in self._settled for slot in line.fills} - self._reads.keys()
        self._made = sorted(made & read)
        self._indices = [slot for slot, *_ in program.indices if slot in read]
        self._prompt = [slot for pair in program.projectors for slot in pair if slot in read]
        self._each_time = [slot for slot in (*program.paths, BLEND) if slot in read]
        self.buffers: dict[int, Tensor] = {}
        self._results: list[Tensor] = []
        self._again: Callable[[], None] | None = None
        self._layout: weakref.ref[Layout] | None = None
        self._parts: list[weakref.ref[ComponentRecording]] = []
        self._fills = -1  # of the arena, when this replay last read it
        self._prompt_was: list[Tensor] = []

    def run(self, arguments: dict[str, Any], packed_pass: PackedPass) -> Tensor:  # [B, N, C_out]
        """The output at the active positions. It is written anew by the next run."""
        slots = self.program.filled(arguments, packed_pass)
        self._settle(slots, packed_pass)
        for slot in self._each_time:
            self._write(slot, slots[slot])
        if self._again is None:
            self._results, self._again = self._capture(self._run_body)
        self._again()
        for key, rows in zip(self.program.kept, self._results[1:], strict=True):
            packed_pass.keep(key, rows.clone())
        return self._results[0]

    def forget_contents(self) -> None:
        """Reads the recordings anew in the next run."""
        self._parts = []

    # ---- buffers ----------------------------------------------------------------------------------------------------

    def _settle(self, slots: list[Any], packed_pass: PackedPass) -> None:
        """Brings the buffers that depend on recordings, region and prompt up to date."""
        layout, parts = packed_pass.layout, [part for part, _ in packed_pass.recorded.terms]
        same_layout = self._layout is not None and self._layout() is layout
        if not same_layout:
            for slot in self._indices:
                self._write(slot, slots[slot])
        untouched = self._fills == self._arena.fills  # other replays fill the same tensors
        if not (same_layout and untouched and _same([one() for one in self._parts], parts)):
            self._read_recordings(slots, packed_pass)
        prompt = [slots[slot] for slot in self._prompt]
        if not _same(prompt, self._prompt_was):
            for slot, tensor in zip(self._prompt, prompt, strict=True):
                self._write(slot, tensor)
        self._layout, self._parts, self._prompt_was = weakref.ref(layout), [weakref.ref(part) for part in parts], prompt

    def _read_recordings(self, slots: list[Any], packed_pass: PackedPass) -> None:
        """Fills the arena, and runs the lines that read nothing but recordings and the region."""
        for slot, place in self._reads.items():
            self.buffers[slot] = slots[slot] = self._arena.read(place, self._size, packed_pass.recorded)
        lines = [line for line in self._settled if line.name != READS]
        run_lines(lines, last_reads(lines, set(self._made)), slots)
        for slot in self._made:
            self._write(slot, slots[slot])
        self._fills = self._arena.fills

    def _write(self, slot: int, value: Tensor) -> None:
        """Copies a value into the buffer of its slot."""
        buffer = self.buffers.get(slot)
        if buffer is None:
            buffer = self.buffers[slot] = like(value)
        buffer.copy_(value, non_blocking=True)

    def _run_body(self) -> list[Tensor]:
        """Runs the lines that are captured."""
        slots = list(self.program.slots)
        for slot, buffer in self.buffers.items():
            slots[slot] = buffer
        results = [self.program.returned, *self.program.kept.values()]
        run_lines(self.body, last_reads(self.body, set(results)), slots)
        return [slots[slot] for slot in results]


def _same(some: Sequence[object], others: Sequence[object]) -> bool:
    """Says whether these are the same objects."""
    return len(some) == len(others) and all(map(is_, some, others))


def split(program: Program) -> tuple[list[Line], list[Line]]:
    """The lines that read nothing but recordings and the region, and all others."""
    varies = {BLEND, *program.paths, *(slot for pair in program.projectors for slot in pair)}
    written = {slot for line in program.lines for slot in line.writes}
    settled, body = [], []
    for line in program.lines:
        if line.writes or line.name == LISTS or varies.intersection(line.reads):
            body.append(line)
            varies.update(line.fills)
        elif written.isdisjoint(line.fills):
            settled.append(line)
        elif _is_view(line):
            raise TraceError(f"a layer writes to a view, which {line.name} made of a recording")
        else:
            body.append(line)
            varies.update(line.fills)
    return settled, body


def _is_view(line: Line) -> bool:
    """Says whether what the line fills shares memory with what it reads."""
    schema = getattr(getattr(line.call, "func", line.call), "_schema", None)
    return schema is None or any(result.alias_info is not None for result in schema.returns)


def _recorded(program: Program, settled: list[Line]) -> dict[int, Slot]:
    """What each read of a recording reads, by the slot that it fills."""
    found = {}
    for line in settled:
        if line.name == READS:
            kind, term, key = (program.slots[slot] for slot in line.reads if slot != READ)
            found[line.fills[0]] = kind, term, key
    return found
