"""Steady packed passes of a full-size model on fake CUDA tensors: the second pass of a region, op by op.

The first pass of a region copies index tensors to the device and computes the prompt's keys and values; every later one
is as the second. The engine runs later passes as programs, which call the same ops (docs/programs.md).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch

import sige
from benchmarks.fake_cuda import build_fake, fake_cuda
from benchmarks.op_log import OpLog
from benchmarks.passes import centred
from sige.profiling import Subject

__all__ = ["FORECASTS", "Setting", "steady_passes"]

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


def steady_passes(setting: Setting, recordings: Sequence[int]) -> dict[int, OpLog]:
    """The log of one steady pass for each number of recordings."""
    region = setting.region()
    with fake_cuda(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")  # a recording compares two
        subject = build_fake(setting.model, setting.size, setting.dtype)
        with sige.enable(subject.target) as handle:
            with handle.record() as recording:
                subject()
            return {count: _second_pass(handle, subject, region, recording, count) for count in recordings}


def _second_pass(
    handle: sige.Handle, subject: Subject, region: sige.Region, recording: sige.Recording, count: int
) -> OpLog:
    """The log of the second pass. One recording stands for all, because only shapes matter."""
    first, second = OpLog(), OpLog()  # both passes need one: without it a fake pass stops at the first sync
    with handle.edit(region, blend=[(recording, weight) for weight in FORECASTS[count]]):
        for log in (first, second):
            with log:
                subject()
    return second
