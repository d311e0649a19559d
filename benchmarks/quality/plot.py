"""Quality against cost: a line for each policy, forecast and kind of gaps, points for the rest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sige
from benchmarks.quality.results import Results
from benchmarks.quality.table import Summary, summarise
from benchmarks.quality.ways import OtherSeed, policy_of
from sige.files import atomic_write
from sige.policies.schedule import GROWING

__all__ = ["plot"]

WIDTH, HEIGHT, DPI = 9.0, 5.6, 200  # inches, and dots each of them: read at 900 pixels
INK, GREY = "#3d405b", "0.4"
FORECASTS = {"rising": "#4a7c59", "quadratic": "#2a6f97", "linear": "#d8973c", "none": "#b0413e"}
GAPS = {"growing": ("-", "o"), "even": ("--", "s")}
LOCKSTEP = "lockstep, dilation 0 to 4"


@dataclass(frozen=True)
class Point:
    """A row of the table: its share of the dense work, its median PSNR, and its label."""

    work: float
    psnr: float
    label: str


def plot(results: Results, names: Sequence[str], path: Path) -> None:
    """Writes a PNG: median PSNR inside the mask over the share of the dense edit's multiply-accumulates."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = {name: summarise(results.rows[name]) for name in names}
    lines, points = _sorted_out({name: summary for name, summary in found.items() if summary is not None})
    figure, axes = pyplot.subplots(figsize=(WIDTH, HEIGHT), layout="constrained")
    _draw_lines(axes, lines)
    for point in points:
        axes.plot(point.work, point.psnr, marker="D", markersize=6, color=INK)
        axes.annotate(point.label, (point.work, point.psnr), xytext=(8, -4), textcoords="offset points", color=INK)
    axes.axvline(1, color=GREY, linewidth=1, linestyle=":")
    axes.annotate("the work of dense", (1, 0.02), xycoords=("data", "axes fraction"), rotation=90, color=GREY,
                  xytext=(-13, 0), textcoords="offset points")  # fmt: skip
    _finish(axes, results)
    with atomic_write(path, parents=True) as temporary:
        figure.savefig(temporary, dpi=DPI, format="png")
    pyplot.close(figure)


def _sorted_out(summaries: dict[str, Summary]) -> tuple[dict[str, list[Point]], list[Point]]:
    """Lines and points: temporal rows of the default dilation by budget, lockstep by dilation; other rows are points.

    Temporal rows of another dilation, or with frozen statistics, would lie over each other: they are in the table.
    """
    lines: dict[str, list[Point]] = defaultdict(list)
    points: list[Point] = []
    for name, summary in summaries.items():
        policy, at = policy_of(name), (summary.work, summary.psnr)
        if policy is None:
            points.append(Point(*at, "another seed" if name == OtherSeed().name else name))
        elif isinstance(policy, sige.Lockstep) and policy.exact_statistics:
            lines[LOCKSTEP].append(Point(*at, f"d{policy.dilates_by}"))
        elif isinstance(policy, sige.Lockstep):
            points.append(Point(*at, name))
        elif name.endswith(f" d{sige.Temporal().dilates_by}") and isinstance(policy.dense_steps, int):
            lines[_title(policy)].append(Point(*at, str(policy.dense_steps)))
    return lines, points


def _title(policy: sige.Temporal) -> str:
    forecast = "no" if policy.forecast == "none" else policy.forecast
    return f"temporal, {forecast} forecast, {policy.schedule or GROWING} gaps"


def _draw_lines(axes: Any, lines: dict[str, list[Point]]) -> None:
    styles = {LOCKSTEP: {"color": INK, "linestyle": "-", "marker": "^"}}
    for schedule, (dash, marker) in GAPS.items():
        for forecast, colour in FORECASTS.items():
            title = _title(sige.Temporal(schedule=schedule, forecast=forecast))
            styles[title] = {"color": colour, "linestyle": dash, "marker": marker}
    for title, style in styles.items():
        line = sorted(lines.get(title, ()), key=lambda point: point.work)
        if line:
            axes.plot([p.work for p in line], [p.psnr for p in line], linewidth=2, markersize=5, label=title, **style)
    for point in _highest(lines):
        axes.annotate(point.label, (point.work, point.psnr), xytext=(0, 7), textcoords="offset points", ha="center")


def _highest(lines: dict[str, list[Point]]) -> list[Point]:
    """One point for each label: a budget means the same work whatever forecast, so it is written once."""
    highest: dict[str, Point] = {}
    for point in (point for line in lines.values() for point in line):
        if point.label not in highest or highest[point.label].psnr < point.psnr:
            highest[point.label] = point
    return list(highest.values())


def _finish(axes: Any, results: Results) -> None:
    settings = results.settings
    axes.set_xlabel("work, as a share of the dense edit's multiply-accumulates", fontsize=11)
    axes.set_ylabel("median PSNR inside the mask, dB", fontsize=11)
    title = f"Against the dense edit of the same seed: {settings.edits} edits of {settings.steps} steps"
    axes.set_title(f"{title}\nnumbers at the lines: dense steps; of lockstep, dilation", fontsize=11)
    axes.margins(x=0.08, y=0.1)
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=9, loc="best", framealpha=0.9, edgecolor="0.9")
