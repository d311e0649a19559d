"""The plot of a training's losses."""

from __future__ import annotations

import csv
import logging
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sige.files import atomic_write

__all__ = ["plot_losses", "running_median"]

logger = logging.getLogger(__name__)
Numbers = npt.NDArray[np.float64]


def plot_losses(table: Path, path: Path) -> None:
    """Draws the losses thin, their running median thick, and the rate on its own axis; warns without matplotlib."""
    try:
        from matplotlib.figure import Figure  # not pyplot: it would choose a window system
    except ImportError:
        _say_missing(path)
        return
    rows = np.array(list(csv.reader(table.read_text().splitlines()))[1:], dtype=np.float64)  # [steps, 3]
    if not len(rows):
        return
    steps, losses, rates = rows.T
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, losses, ".", color="tab:blue", markersize=2, alpha=0.25)
    places, medians = running_median(losses)
    axes.plot(steps[places], medians, color="tab:blue")
    axes.set(xlabel="step", ylabel="loss (running median)", yscale="log")
    axes.grid(alpha=0.3)
    right = axes.twinx()
    right.plot(steps, rates, "--", color="tab:orange", linewidth=1)
    right.set(ylabel="rate", ylim=(0, None))
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def running_median(
    values: Numbers,  # [N]
    count: int = 400,
) -> tuple[npt.NDArray[np.int64], Numbers]:  # [at most count] twice
    """At most `count` evenly spread places, and around each the median of a twentieth of all values.

    >>> places, medians = running_median(np.array([5.0, 1.0, 9.0]))
    >>> places.tolist(), medians.tolist()
    ([0, 1, 2], [5.0, 1.0, 9.0])
    """
    half = len(values) // 40
    places = np.unique(np.linspace(0, len(values) - 1, count).astype(np.int64))
    return places, np.array([np.median(values[max(place - half, 0) : place + half + 1]) for place in places])


@cache
def _say_missing(path: Path) -> None:
    logger.warning("matplotlib is missing: pip install matplotlib, and the next run plots its losses as %s", path)
