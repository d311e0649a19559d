"""Time and memory of a pass: interleaved medians, peak bytes."""

from __future__ import annotations

import logging
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import torch

__all__ = ["Candidate", "Timing", "interleaved", "peak_bytes"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one function over several calls."""

    median: float
    min: float
    max: float
    runs: int


@dataclass(frozen=True)
class Candidate:
    """A function to time, and one that prepares each of its calls and is not timed."""

    call: Callable[[], object]
    prepare: Callable[[], object] = lambda: None


def interleaved(
    candidates: dict[str, Candidate], runs: int, device: torch.device, warm_up: int = 2
) -> dict[str, Timing]:
    """Times the candidates in turn, A B C A B C …, after `warm_up` rounds that do not count.

    A machine whose speed drifts slows all candidates alike, so their ratios hold.
    """
    spent: dict[str, list[float]] = {name: [] for name in candidates}
    for round_ in range(warm_up + runs):
        for name, candidate in candidates.items():
            candidate.prepare()
            milliseconds = _timed(candidate.call, device)
            logger.debug("%s: %.3f ms%s", name, milliseconds, "" if round_ >= warm_up else " (warming up)")
            if round_ >= warm_up:
                spent[name].append(milliseconds)
    return {name: Timing(median(times), min(times), max(times), len(times)) for name, times in spent.items()}


def _timed(call: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize(device)
        start.record()
        call()
        end.record()
        torch.cuda.synchronize(device)
        return float(start.elapsed_time(end))
    begin = perf_counter()
    call()
    return (perf_counter() - begin) * 1e3


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """The most bytes in use at once during the call, with the weights and everything else that is alive.

    On CUDA these are the bytes that the allocator has handed out, on the CPU the resident memory of the process. Some
    systems do not let a process reset its peak (all but Linux, some containers): there it is the peak since the process
    began.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    resettable = _reset_resident_peak()
    call()
    return _resident_peak() if resettable else _peak_since_start()


def _reset_resident_peak() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")  # man 5 proc: resets VmHWM
    except OSError:
        return False
    return True


def _resident_peak() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return _peak_since_start()


def _peak_since_start() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
