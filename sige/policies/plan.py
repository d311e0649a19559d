"""A plan: for each step of a pipeline's call, which passes run and which recordings they read. Numbers only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["NEARLY_ALL", "Step", "is_read"]

NEARLY_ALL = 0.95  # of the positions active: from here on a dense pass costs no more (docs/speed.md)


@dataclass(frozen=True)
class Step:
    """One step. Without `reads` the edit runs dense; otherwise it runs packed on the weighted sum of recordings."""

    reads: tuple[tuple[int, float], ...] = ()  # (step that was recorded, weight)
    records_original: bool = False  # first the original, noised as the edit is, runs dense and is recorded


def is_read(recorded: int, plan: Sequence[Step], first: int) -> bool:
    """Says whether a step from `first` on reads what was recorded at the step `recorded`.

    >>> plan = [Step(), Step(((0, 1.0),)), Step()]
    >>> is_read(0, plan, first=1), is_read(0, plan, first=2)
    (True, False)
    """
    return any(recorded == other for step in plan[first:] for other, _ in step.reads)
