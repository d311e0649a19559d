"""A profile as text, as JSON and as a chart, with the machine, versions and settings that its figures hold for."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import sige
from sige.files import atomic_write
from sige.profiling.compare import PassWork, count_passes, in_billions, measure_latency
from sige.profiling.macs import MacCount
from sige.profiling.models import Subject
from sige.region import Region

__all__ = ["as_text", "breakdown", "draw_chart", "machine", "make_profile", "write_json"]

Json = dict[str, Any]


def machine() -> Json:
    """The processor, the threads, the versions, and the backend of the ops on each device."""
    facts: Json = {
        "machine": _cpu_name(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": version("diffusers"),
        "numpy": np.__version__,
        "sige": sige.__version__,
        "backends": {backend.device: "native" if backend.native else "reference" for backend in sige.ops.backends()},
    }
    if torch.cuda.is_available():
        facts |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    return facts


def make_profile(
    subject: Subject,  # to count; on the meta device
    region: Region,
    settings: Json,
    timed: Callable[[], Subject] | None = None,  # makes the model with weights to time; None: count only
    runs: int = 5,
) -> Json:
    """The work of both passes, with the settings and the machine; with `timed`, also their time and memory."""
    passes = count_passes(subject, region)
    profile: Json = dict(in_billions(passes))
    if timed is not None:
        latency = measure_latency(timed(), region, runs)
        settings = settings | {"dense_layout": latency["dense"].pop("layout")}
        for side in ("dense", "packed"):
            profile[side] |= latency[side]
        profile["recording"] = latency["recording"]
    profile["active"] = {f"{height}x{width}": region.ratio(height, width) for height, width in subject.levels}
    return profile | {"settings": settings | machine(), "breakdown": breakdown(passes)}


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def breakdown(passes: PassWork) -> Json:
    """Billions of multiply-accumulates: {"kinds", "modules" or "layers": {name: {"dense": …, "packed": …}}}."""
    views: dict[str, Callable[[MacCount], dict[Any, int]]] = {
        "kinds": MacCount.kinds,
        "modules": MacCount.modules,
        "layers": lambda count: count.modules(depth=2),
    }
    return {name: _side_by_side(view(passes.dense), view(passes.packed)) for name, view in views.items()}


def _side_by_side(dense: dict[str, int], packed: dict[str, int]) -> Json:
    names = [*dense, *(name for name in packed if name not in dense)]
    return {
        name or "(model)": {"dense": dense.get(name, 0) / 1e9, "packed": packed.get(name, 0) / 1e9} for name in names
    }


# ---- text ------------------------------------------------------------------------------------------------------------


def as_text(profile: Json) -> str:
    """The profile as text: the settings, the figures by both conventions, the work by kind and by module."""
    settings = profile["settings"]
    facts = ("model", "size", "batch", "region", "dilation", "machine", "torch", "diffusers")
    lines = [", ".join(f"{name} {settings[name]}" for name in facts)]
    if "latency_ms" in profile["dense"]:
        timed = ("device", "dtype", "runs", "dense_layout")
        lines.append("timed: " + ", ".join(f"{name} {settings[name]}" for name in timed))
    active = ", ".join(f"{level} {100 * ratio:.2f} %" for level, ratio in profile["active"].items())
    lines += [f"active: {active}", "", _table(["", "dense", "packed", "dense/packed"], _figures(profile))]
    for name in ("kinds", "modules"):
        rows = profile["breakdown"][name]
        cells = [_row(key, both["dense"], both["packed"]) for key, both in rows.items() if max(both.values()) >= 5e-3]
        lines += ["", _table([f"G MACs by {name[:-1]}", "dense", "packed", "dense/packed"], cells)]
    return "\n".join(lines)


def _figures(profile: Json) -> list[list[str]]:
    dense, packed = profile["dense"], profile["packed"]
    rows = [
        _row("G MACs, published convention", dense["macs_published_g"], packed["macs_published_g"]),
        _row("G MACs, all (with attention)", dense["macs_all_g"], packed["macs_all_g"]),
    ]
    if packed["macs_text_g"]:
        rows.append(["G MACs, once per prompt", "", f"{packed['macs_text_g']:.2f}", ""])
    if "latency_ms" in dense:
        for name in ("median", "min", "max"):
            rows.append(_row(f"ms, {name}", dense["latency_ms"][name], packed["latency_ms"][name]))
        rows.append(_row("GiB, peak", dense["peak_bytes"] / 2**30, packed["peak_bytes"] / 2**30))
        rows.append(["GiB, recording", "", f"{profile['recording']['bytes'] / 2**30:.2f}", ""])
    return rows


def _row(name: str, dense: float, packed: float) -> list[str]:
    return [name, f"{dense:.2f}", f"{packed:.2f}", f"{dense / packed:.2f}" if dense and packed else "-"]


def _table(head: list[str], rows: list[list[str]]) -> str:
    """A table in text: the first column is aligned to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return "\n".join(
        "  ".join([name.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))])
        for name, *cells in [head, *rows]
    )


# ---- files -----------------------------------------------------------------------------------------------------------


def write_json(profile: Json, path: Path) -> None:
    """Writes the profile as JSON, whole or not at all."""
    with atomic_write(path, parents=True) as temporary:
        temporary.write_text(json.dumps(profile, indent=2) + "\n")


def draw_chart(profile: Json, path: Path) -> None:
    """Draws bars of dense and packed work by kind and by module as a PNG (needs matplotlib); leaves tiny bars out."""
    from matplotlib.figure import Figure

    least = 1e-3 * profile["dense"]["macs_all_g"]
    parts = {
        name: {key: both for key, both in profile["breakdown"][name].items() if max(both.values()) >= least}
        for name in ("kinds", "modules")
    }
    heights = [len(parts["kinds"]), len(parts["modules"])]
    figure = Figure(figsize=(8, 1.6 + 0.32 * sum(heights)), layout="constrained")
    for axes, name in zip(
        figure.subplots(2, gridspec_kw={"height_ratios": heights}), ("kinds", "modules"), strict=True
    ):
        _bars(axes, parts[name])
    settings = profile["settings"]
    totals = " and ".join(f"{profile[side]['macs_all_g']:.1f} G {side}" for side in ("dense", "packed"))
    figure.suptitle(f"{settings['model']}, {settings['size']}, batch {settings['batch']}: {totals}")
    with atomic_write(path, parents=True) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


def _bars(axes: Any, rows: Json) -> None:
    places = np.arange(len(rows))
    for offset, name, color in ((-0.2, "dense", "#9aa5b1"), (0.2, "packed", "#1f77b4")):
        values = [both[name] for both in rows.values()]
        bars = axes.barh(places + offset, values, 0.38, label=name, color=color)
        axes.bar_label(bars, [f"{value:.1f}" for value in values], padding=2, fontsize=7)
    axes.set_yticks(places, list(rows))
    axes.invert_yaxis()
    axes.set_xlabel("G multiply-accumulates")
    axes.margins(x=0.1)  # room for the numbers
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
