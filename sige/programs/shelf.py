"""The programs of one component: which pass runs as a program, and why another does not."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from sige.errors import ConfigError
from sige.packed.features import PackedPass
from sige.programs.arena import Arena
from sige.programs.arguments import as_tensors, shape_of
from sige.programs.program import Packed, Program, traced
from sige.programs.replay import Capture, CudaCapture, Replay
from sige.programs.trace import TraceError

__all__ = ["Programs"]

MOST = 8  # kinds of a component, and programs of a kind
PAYS_AFTER = 8  # passes of a kind: on the embedded model a trace takes as long as eight of them save
logger = logging.getLogger(__name__)


@dataclass
class Kind:
    """The passes that may share programs: how many there were, and the programs, the latest first."""

    passes: int = 0
    programs: list[Program] = field(default_factory=list)


class Programs:
    """Runs packed passes: the first of a kind layer by layer, then one is traced, and later ones run as its program."""

    def __init__(self) -> None:
        self.why_not = ""  # the reason of the last pass that could not be traced
        self.why_no_graph = ""  # the reason of the last program that could not be captured
        self._kinds: OrderedDict[Hashable, Kind] = OrderedDict()
        self._replays: OrderedDict[int, Replay] = OrderedDict()  # by the program's id; each holds its program
        self._arena = Arena()
        self._capture: Capture | None = None  # of all graphs

    def clear(self) -> None:
        """Forgets every program: weights or modules have changed."""
        self._kinds.clear()
        self.why_not = ""
        self.forget_graphs()

    def begin(self) -> None:
        """A context begins: recordings may have been written to since the last one, and are then read anew."""
        if self._arena.check():
            for replay in self._replays.values():
                replay.forget_contents()

    def forget_graphs(self) -> None:
        """Forgets every graph and what it read."""
        self._replays.clear()
        self._arena, self._capture = Arena(), None
        self.why_no_graph = ""

    def run(self, packed: Packed, module: nn.Module, arguments: dict[str, Any], packed_pass: PackedPass) -> Tensor:
        """The output of the packed pass: by a program, if there can be one, and else by the layers.

        [B, N, C_out], or more rows than N, of which the first N count: graphs serve regions of about the same size.
        """
        after = _pays_after(arguments["sample"])
        if after is None or self.why_not:
            return packed(arguments, packed_pass)
        arguments = as_tensors(arguments)
        if captures(arguments["sample"]) and not self.why_no_graph and packed_pass.kept is None:
            packed_pass = replace(packed_pass, layout=packed_pass.layout.padded)
        kind = self._kind(_key(arguments, packed_pass))
        for program in kind.programs:
            if program.fits(packed_pass.layout):
                return self._run(program, arguments, packed_pass)
        kind.passes += 1
        if kind.passes <= after:
            return packed(arguments, packed_pass)
        try:
            output, program = traced(packed, module, arguments, packed_pass)
        except TraceError as error:
            self.why_not = str(error)
            logger.debug("packed passes of this model run layer by layer: %s", error)
            return packed(arguments, packed_pass)
        kind.programs = [program, *kind.programs][:MOST]
        kind.passes = 0
        return output

    def _run(self, program: Program, arguments: dict[str, Any], packed_pass: PackedPass) -> Tensor:  # [B, N, C_out]
        """Runs the program, as a graph where there can be one."""
        sample = arguments["sample"]
        new_capture = captures(sample)
        if new_capture is None or self.why_no_graph:
            return program.run(arguments, packed_pass)
        self._capture = self._capture or new_capture()
        try:
            replay = self._replays.get(id(program))
            if replay is None:
                replay = Replay(program, self._arena, shape_of({"sample": sample}), self._capture)
            output = replay.run(arguments, packed_pass)
        except (TraceError, RuntimeError) as error:
            self.forget_graphs()
            self.why_no_graph = str(error)
            logger.debug("packed passes of this model run as programs, not as graphs: %s", error)
            return program.run(arguments, packed_pass)
        self._replays[id(program)] = replay
        self._replays.move_to_end(id(program))
        while len(self._replays) > MOST:
            self._replays.popitem(last=False)
        return output

    def _kind(self, key: Hashable) -> Kind:
        kind = self._kinds.setdefault(key, Kind())
        self._kinds.move_to_end(key)
        while len(self._kinds) > MOST:
            self._kinds.popitem(last=False)
        return kind

    @property
    def programs(self) -> list[Program]:
        """The programs that are kept."""
        return [program for kind in self._kinds.values() for program in kind.programs]

    @property
    def nbytes(self) -> int:
        """Bytes of what graphs read from recordings."""
        return self._arena.nbytes

    @property
    def graphs(self) -> list[Replay]:
        """The programs that are captured as graphs."""
        return list(self._replays.values())


def _pays_after(sample: Tensor) -> int | None:
    """After how many passes of a kind a program pays; None where passes never run as programs.

    `SIGE_PROGRAMS` is `auto`, `0` for never, or another number of passes. A GPU waits for Python from the start.
    """
    if type(sample) is not Tensor or sample.device.type == "meta":
        return None
    said = os.environ.get("SIGE_PROGRAMS", "auto")
    if said.isdecimal():
        return int(said) or None
    if said != "auto":
        raise ConfigError(f"SIGE_PROGRAMS: got {said!r}, expected auto, 0 for never, or a number of passes")
    return PAYS_AFTER if sample.device.type == "cpu" else 1


def captures(sample: Tensor) -> Callable[[], Capture] | None:
    """What makes captures on this device; None where there are no graphs. `SIGE_GRAPH` is `auto`, or `0` for never."""
    said = os.environ.get("SIGE_GRAPH", "auto")
    if said not in ("auto", "0"):
        raise ConfigError(f"SIGE_GRAPH: got {said!r}, expected auto, or 0 for never")
    return CudaCapture if said == "auto" and sample.is_cuda else None


def _key(arguments: dict[str, Any], packed_pass: PackedPass) -> Hashable:
    """What two passes have in common that may run the same program; index tensors are compared by the program."""
    recorded = packed_pass.recorded
    inference = torch.is_inference_mode_enabled()
    kinds = packed_pass.exact_statistics, packed_pass.kept is not None, recorded.is_one, inference
    return shape_of(arguments), len(recorded.terms), kinds
