"""Quality against cost: a line for each family of plans, SIGE's and its rivals', points for the rest."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sige
from benchmarks.quality.results import Results
from benchmarks.quality.table import Summary, summarise
from benchmarks.quality.ways import PLAIN, OtherSeed, policy_of
from sige.files import atomic_write

__all__ = ["plot"]

WIDTH, HEIGHT, DPI = 9.0, 5.6, 200  # inches, and dots each of them: read at 900 pixels
INK, GREY = "#3d405b", "0.4"
PRESETS, WITHOUT, LOCKSTEP = "SIGE, presets", "SIGE, plain by dense steps", "lockstep, dilation 0 to 4"
EXPERIMENT = "fastest"
OUTPUTS, FEWER = "rival: outputs continued", "rival: fewer steps"
STYLES = {  # family -> colour and marker
    PRESETS: ("#b0413e", "o"),
    WITHOUT: ("#4a7c59", "s"),
    OUTPUTS: ("#2a6f97", "v"),
    FEWER: ("#d8973c", "D"),
    LOCKSTEP: (INK, "^"),
}


@dataclass(frozen=True)
class Point:
    """A row of the table: its share of the dense work, its PSNR, and its label."""

    work: float
    psnr: float  # median
    low: float  # 10th percentile
    label: str


def plot(results: Results, names: Sequence[str], path: Path) -> None:
    """Writes a PNG: PSNR inside the mask over the share of the dense edit's multiply-accumulates."""
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
    """Families and single points; rows that would lie over others are left to the table.

    Of a rival's forecasts the best of each number of dense steps is drawn.
    """
    best: dict[tuple[str, str], Point] = {}
    points: list[Point] = []
    for name, summary in summaries.items():
        family, label = _family(name)
        point = Point(summary.work, summary.psnr, summary.psnr_low, label)
        if family == "":
            points.append(point)
        elif family is not None and ((family, label) not in best or best[family, label].psnr < point.psnr):
            best[family, label] = point
    lines: dict[str, list[Point]] = defaultdict(list)
    for (family, _), point in best.items():
        lines[family].append(point)
    return lines, points


def _family(name: str) -> tuple[str | None, str]:
    """The family of a row and its label there; no family ("") for a single point, None for a row that is not drawn."""
    if found := re.fullmatch(r"outputs (\d+) \w+", name):
        return OUTPUTS, found[1]
    if found := re.fullmatch(r"dense (\d+) steps", name):
        return FEWER, found[1]
    policy = policy_of(name)
    if policy is None:
        return "", "another seed" if name == OtherSeed().name else name
    if isinstance(policy, sige.Lockstep):
        return (LOCKSTEP, f"d{policy.dilates_by}") if policy.exact_statistics else ("", name)
    if policy.dilates_by or not policy.exact_statistics or not isinstance(policy.dense_steps, int):
        return None, ""
    if policy.preset == PLAIN:
        return WITHOUT if policy.schedule == "growing" else None, str(policy.dense_steps)
    if policy.preset == EXPERIMENT:  # it saves the deepest level, which is small in the embedded model
        return "", policy.preset
    return PRESETS, policy.preset


def _draw_lines(axes: Any, lines: dict[str, list[Point]]) -> None:
    for family, (colour, marker) in STYLES.items():
        line = sorted(lines.get(family, ()), key=lambda point: point.work)
        work = [point.work for point in line]
        if line:
            axes.plot(
                work, [p.psnr for p in line], color=colour, marker=marker, markersize=5, linewidth=2, label=family
            )
            axes.plot(
                work, [p.low for p in line], color=colour, marker=marker, markersize=3, linewidth=1, linestyle=":"
            )
        for point in line:
            axes.annotate(point.label, (point.work, point.psnr), xytext=(0, 7), textcoords="offset points",
                          ha="center", color=colour, fontsize=8)  # fmt: skip


def _finish(axes: Any, results: Results) -> None:
    settings = results.settings
    axes.set_xlabel("work, as a share of the dense edit's multiply-accumulates", fontsize=11)
    axes.set_ylabel("PSNR inside the mask, dB", fontsize=11)
    title = f"Against the dense edit of the same seed: {settings.edits} edits of {settings.steps} steps"
    axes.set_title(f"{title}\nlines: median; dotted: 10th percentile; numbers: dense steps", fontsize=11)
    axes.margins(x=0.08, y=0.1)
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=9, loc="best", framealpha=0.9, edgecolor="0.9")
