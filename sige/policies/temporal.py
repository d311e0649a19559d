"""Temporal: the edit itself runs dense at some steps and is recorded; the steps between run packed on a forecast.

step   0      1               2 3 4            5               6                      …
       dense  dense, kept R1  packed on R1     dense, kept R5  packed on 1.25 R5 − 0.25 R1
"""

from __future__ import annotations

from dataclasses import dataclass

from sige.errors import ConfigError
from sige.policies.checks import check_bool, check_count, check_name, is_count
from sige.policies.plan import NEARLY_ALL, Step
from sige.policies.schedule import FORECASTS, GROWING, SCHEDULES, dense_steps, forecast_terms

__all__ = ["Temporal"]


@dataclass(frozen=True)
class Temporal:
    """The default policy: an edit with nothing prepared, faster from end to end.

    >>> Temporal(dense_steps=7, forecast="linear").dilates_by
    0
    """

    dense_steps: int | tuple[int, ...] | None = None  # how many, or which; None: a fifth, at least 3 (2 of up to 4)
    schedule: str | None = None  # the gaps between dense steps: growing, or even; None: growing
    forecast: str = "rising"  # none: the last recording as it is; linear from two, quadratic from three;
    #                           rising: linear, and quadratic after the last dense step
    dilation: int | None = None  # of a region that is made from a mask; None: 0
    exact_statistics: bool = True  # False freezes GroupNorm's statistics, for comparison

    def __post_init__(self) -> None:
        check_name("forecast", self.forecast, FORECASTS)
        check_bool("exact_statistics", self.exact_statistics)
        if self.schedule is not None:
            check_name("schedule", self.schedule, SCHEDULES)
        if self.dilation is not None:
            check_count("dilation", self.dilation, 0)
        if isinstance(self.dense_steps, list):
            object.__setattr__(self, "dense_steps", tuple(self.dense_steps))
        self._check_dense_steps()

    def _check_dense_steps(self) -> None:
        steps = self.dense_steps
        if isinstance(steps, tuple):
            rising = all(is_count(step, 0) for step in steps) and list(steps) == sorted(set(steps))
            if not rising or steps[:1] != (0,):
                raise ConfigError(
                    f"dense_steps: got {steps}, expected rising step numbers that begin with 0, because the first step "
                    "has no recording to read"
                )
            if self.schedule is not None:
                raise ConfigError("schedule: a list of dense_steps is a schedule already: leave one of the two out")
        elif not (steps is None or is_count(steps, 1)):
            raise ConfigError(f"dense_steps: got {steps!r}, expected how many (at least 1) or a list of step numbers")

    @property
    def dilates_by(self) -> int:
        """Positions that a mask grows by. The recordings are the edit's own, so what lies around it fits already."""
        return self.dilation or 0

    def dense_of(self, count: int) -> tuple[int, ...]:
        """The steps that run dense in a call of `count` steps.

        >>> Temporal().dense_of(30), Temporal(dense_steps=3).dense_of(30)
        ((0, 1, 5, 10, 16, 23), (0, 1, 13))
        """
        return dense_steps(count, self.dense_steps, self.schedule or GROWING)

    def plan(self, count: int, active: float, first: int = 0) -> list[Step]:
        """A step for each of `count`; `active` is the region's share of the positions.

        No step reads what was recorded before `first`, which then runs dense itself.

        >>> [len(step.reads) for step in Temporal(dense_steps=(0, 1, 4)).plan(6, active=0.1)]
        [0, 0, 1, 1, 0, 2]
        """
        if active >= NEARLY_ALL:
            return [Step() for _ in range(count)]
        dense = self.dense_of(count)
        if first:
            dense = (first, *(step for step in dense if step > first))
        return [
            Step() if step in dense or step < first else Step(forecast_terms(step, dense, self.forecast))
            for step in range(count)
        ]
