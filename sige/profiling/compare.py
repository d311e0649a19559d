"""Dense against packed: multiply-accumulates on the meta device, time and memory on a real one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

import sige
from sige.profiling.latency import Candidate, Timing, interleaved, peak_bytes
from sige.profiling.macs import MacCount, ProfilingError, count_macs
from sige.profiling.models import Subject, build
from sige.region import Region

__all__ = ["PassWork", "count_passes", "measure_latency", "measure_macs"]

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass(frozen=True)
class PassWork:
    """The multiply-accumulates of a dense and of a packed pass."""

    dense: MacCount
    packed: MacCount  # of each pass after the first one with a prompt
    text: int  # what the first pass adds: keys and values of the prompt


@torch.no_grad()
def count_passes(subject: Subject, region: Region) -> PassWork:
    """Counts one dense call, then the second of two packed ones. The subject may be on the meta device."""
    _check_size(subject, region)
    with count_macs(subject.module) as dense:
        subject.dense(subject.sample)
    with sige.enable(subject.target) as handle:
        with handle.record():
            subject()
        with handle.edit(region):
            with count_macs(subject.module) as first:
                subject()
            with count_macs(subject.module) as second:
                subject()
    return PassWork(dense, second, first.all - second.all)


def measure_macs(
    model_name: str,
    size: tuple[int, int],  # height, width of the image
    region: Region,
    batch: int | None = None,
) -> dict[str, dict[str, float]]:
    """Dense and packed multiply-accumulates of a named model, without weights, in billions.

    >>> measured = measure_macs("vae-encoder", (64, 64), Region.full(64, 64))
    >>> measured["packed"]["macs_all_g"] >= measured["dense"]["macs_all_g"]
    True
    """
    return in_billions(count_passes(build(model_name, size, batch), region))


def in_billions(passes: PassWork) -> dict[str, dict[str, float]]:
    """The multiply-accumulates of both passes in both conventions, in billions."""
    figures = {
        name: {"macs_published_g": count.published / 1e9, "macs_all_g": count.all / 1e9}
        for name, count in (("dense", passes.dense), ("packed", passes.packed))
    }
    figures["packed"]["macs_text_g"] = passes.text / 1e9
    return figures


@torch.no_grad()
def measure_latency(subject: Subject, region: Region, runs: int = 5) -> dict[str, Any]:
    """Time and peak memory of dense and packed calls, which take turns; and the memory of the recording.

    The dense side is diffusers' own forward in the faster of two layouts, contiguous or channels-last, weights and
    input alike. Packed passes read channels-last weights. So the weights are put into the layout that a call wants
    before each call, and the clock does not run meanwhile.
    """
    _check_size(subject, region)
    device = subject.sample.device
    dense = {name: _dense(subject, layout) for name, layout in LAYOUTS.items()}
    trial = interleaved(dense, runs=2, device=device, warm_up=1)
    fastest = min(trial, key=lambda name: trial[name].median)
    dense[fastest].prepare()
    dense_peak = peak_bytes(dense[fastest].call, device)  # before there is a recording
    _set_layout(subject.module, torch.contiguous_format)
    with sige.enable(subject.target) as handle:
        with handle.record() as recording:
            record_peak = peak_bytes(subject, device)
        with handle.edit(region):
            subject()  # not timed: computes what an edit needs once, keys and values of the prompt and index tensors
            packed = Candidate(subject, lambda: _set_layout(subject.module, torch.channels_last))
            packed_peak = peak_bytes(subject, device)
            times = interleaved({"dense": dense[fastest], "packed": packed}, runs, device)
        nbytes = recording.nbytes
    return {
        "dense": _figures(times["dense"], dense_peak) | {"layout": fastest},
        "packed": _figures(times["packed"], packed_peak),
        "recording": {"bytes": nbytes, "peak_bytes": record_peak},
    }


def _figures(timing: Timing, peak: int) -> dict[str, Any]:
    return {"latency_ms": asdict(timing), "peak_bytes": peak}


def _dense(subject: Subject, layout: torch.memory_format) -> Candidate:
    sample = subject.sample.contiguous(memory_format=layout)
    return Candidate(lambda: subject.dense(sample), lambda: _set_layout(subject.module, layout))


def _set_layout(module: nn.Module, layout: torch.memory_format) -> None:
    """Puts the weights of the convolutions into the layout; other weights stay as they are."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d) and not part.weight.is_contiguous(memory_format=layout):
            part.weight.data = part.weight.data.contiguous(memory_format=layout)


def _check_size(subject: Subject, region: Region) -> None:
    if region.image_size != subject.size:
        raise ProfilingError(
            f"region: got an image of {_text(region.image_size)}, expected {_text(subject.size)} like the model's: "
            "make the mask as large as the image"
        )


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
