"""Steady packed passes of a full-size model on fake CUDA tensors: the second pass of a region, op by op.

The first pass of a region copies index tensors to the device and computes the prompt's keys and values; every later one
is as the second. The engine runs later passes as programs (docs/programs.md), and on CUDA as graphs: the third pass is
traced, and what a graph of it replays is a log of its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

import sige
from benchmarks.fake_cuda import build_fake, fake_cuda
from benchmarks.op_log import OpLog, reads_from_python
from benchmarks.passes import centred
from sige.packed.features import PackedPass
from sige.profiling import Subject
from sige.programs import Programs, program
from sige.programs.arguments import as_tensors
from sige.programs.replay import split
from sige.programs.trace import Trace

__all__ = ["FORECASTS", "Setting", "Steady", "steady_passes"]

# Weights by the number of recordings: none but the recording itself, and a linear and a quadratic forecast.
FORECASTS = {1: (1.0,), 2: (1.25, -0.25), 3: (3.0, -3.0, 1.0)}


@dataclass(frozen=True)
class Setting:
    """A model and a region in the middle of its picture."""

    model: str  # sige.profiling.MODELS
    size: tuple[int, int] = (1024, 1024)  # of the picture: height, width
    ratio: float = 0.1  # of the picture, active
    dilation: int = 0
    dtype: torch.dtype = torch.bfloat16

    def region(self) -> sige.Region:
        """The region of the edit."""
        return sige.Region.from_mask(centred(self.ratio, self.size), dilation=self.dilation)


@dataclass(frozen=True)
class Steady:
    """The ops of one steady pass: as the layers call them, and those of them that a CUDA graph replays."""

    layers: OpLog
    graph: OpLog


def steady_passes(setting: Setting, recordings: Sequence[int]) -> dict[int, Steady]:
    """The logs of one steady pass for each number of recordings."""
    region = setting.region()
    with fake_cuda(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")  # recordings and programs do
        subject = build_fake(setting.model, setting.size, setting.dtype)
        with sige.enable(subject.target) as handle:
            with handle.record() as recording:
                subject()
            return {count: _steady(handle, subject, region, recording, count) for count in recordings}


def _steady(
    handle: sige.Handle, subject: Subject, region: sige.Region, recording: sige.Recording, count: int
) -> Steady:
    """The logs of the second pass. One recording stands for all, because only shapes matter."""
    first, second = OpLog(), OpLog()  # both passes need one: without it a fake pass stops at the first sync
    graphs: list[OpLog] = []
    with handle.edit(region, blend=[(recording, weight) for weight in FORECASTS[count]]):
        for log in (first, second):
            with log:
                subject()
        with _traced(graphs), OpLog():
            subject()
    (graph,) = graphs
    return Steady(second, graph)


# ---- what a CUDA graph replays --------------------------------------------------------------------------------------


class FakeTrace(Trace):
    """A trace on fake tensors, whose device Python asks for by an op that is none."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if reads_from_python(func):
            return func(*args, **(kwargs or {}))
        return super().__torch_dispatch__(func, types, args, kwargs)


@contextmanager
def _traced(graphs: list[OpLog]) -> Iterator[None]:
    """Inside, each packed pass adds the log of what its graph would replay. Fake passes make no programs else."""

    def run(
        _: Programs, packed: program.Packed, module: nn.Module, arguments: dict[str, Any], one: PackedPass
    ) -> Tensor:
        output, log = _graph_of(packed, module, arguments, one)
        graphs.append(log)
        return output

    with patch.object(Programs, "run", run), patch.object(program, "Trace", FakeTrace):
        yield


def _graph_of(
    packed: program.Packed, module: nn.Module, arguments: dict[str, Any], packed_pass: PackedPass
) -> tuple[Tensor, OpLog]:  # [B, N, C_out]
    """Traces the pass as on a GPU, with padded index tensors, and runs the lines that are captured."""
    arguments, packed_pass = as_tensors(arguments), replace(packed_pass, layout=packed_pass.layout.padded)
    output, made = program.traced(packed, module, arguments, packed_pass)
    settled, body = split(made)
    slots = made.filled(arguments, packed_pass)
    program.run_lines(settled, [()] * len(settled), slots)
    with OpLog() as log:
        program.run_lines(body, [()] * len(body), slots)
    return output, log
