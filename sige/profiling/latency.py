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
    """Milliseconds of one function over several runs."""

    median: float
    min: float
    max: float
    runs: int


@dataclass(frozen=True)
class Candidate:
    """Something to time, and what to do before each run, which is not timed."""

    run: Callable[[], object]
    prepare: Callable[[], object] = lambda: None


def interleaved(
    candidates: dict[str, Candidate], runs: int, device: torch.device, warm_up: int = 2
) -> dict[str, Timing]:
    """Times the candidates in turn, A B C A B C …, after some rounds to warm up.

    A machine whose speed drifts then slows all of them alike, and their ratios hold.
    """
    spent: dict[str, list[float]] = {name: [] for name in candidates}
    for round_ in range(warm_up + runs):
        for name, candidate in candidates.items():
            candidate.prepare()
            milliseconds = _timed(candidate.run, device)
            logger.debug("%s: %.3f ms%s", name, milliseconds, "" if round_ >= warm_up else " (warming up)")
            if round_ >= warm_up:
                spent[name].append(milliseconds)
    return {name: Timing(median(times), min(times), max(times), len(times)) for name, times in spent.items()}


def _timed(run: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize(device)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize(device)
        return float(start.elapsed_time(end))
    begin = perf_counter()
    run()
    return (perf_counter() - begin) * 1e3


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """Most bytes in use at once while it runs, weights and all else that is alive included.

    On CUDA what the allocator handed out; on the CPU the resident memory of the process. Where the kernel does not
    let a process reset that mark (not Linux, some containers), it is the peak since the process began.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    resettable = _reset_resident_peak()
    run()
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
