"""Temporal: the edit itself runs dense at some steps and is recorded; the steps between run packed on a forecast.

step   0      1               2 3 4            5               6                      …
       dense  dense, kept R1  packed on R1     dense, kept R5  packed on 1.25 R5 − 0.25 R1

A preset says which of the steps between are skipped: their output is continued from the two computed before.
"""

from __future__ import annotations

from dataclasses import dataclass

from sige.errors import ConfigError
from sige.policies.checks import check_bool, check_count, check_name, check_steps, is_count, is_rising
from sige.policies.plan import ACTIVE, NEARLY_ALL, NONE, Plan, Step
from sige.policies.presets import PRESETS
from sige.policies.schedule import FORECASTS, GROWING, SCHEDULES, dense_steps, forecast_terms, forecast_weights

__all__ = ["Temporal"]


@dataclass(frozen=True)
class Temporal:
    """The default policy: an edit with nothing prepared, faster from end to end.

    >>> Temporal(dense_steps=7, forecast="linear").dilates_by
    0
    >>> Temporal().plan(30, active=0.1).codes
    'DDppDspsDsspsDsspsDsspssDsspss'
    """

    preset: str = "balanced"  # or quality, fast, plain: how much is computed, where the fields below do not say
    dense_steps: int | tuple[int, ...] | None = None  # how many, or which; None: as the preset has it
    schedule: str | None = None  # the gaps between dense steps: growing, or even; None: growing
    skipped_steps: tuple[int, ...] | None = None  # which continue the outputs before them; None: the preset's
    half_steps: tuple[int, ...] | None = None  # which of the dense steps run half; None: the preset's
    outer_steps: tuple[int, ...] | None = None  # which of the dense steps leave out the deepest level; None: as half
    forecast: str = "rising"  # none: the last recording as it is; linear from two, quadratic from three;
    #                           rising: linear, and quadratic after the last dense step
    dilation: int | None = None  # of a region that is made from a mask; None: 0
    exact_statistics: bool = True  # False freezes GroupNorm's statistics, for comparison

    def __post_init__(self) -> None:
        check_name("preset", self.preset, tuple(PRESETS))
        check_name("forecast", self.forecast, FORECASTS)
        check_bool("exact_statistics", self.exact_statistics)
        if self.schedule is not None:
            check_name("schedule", self.schedule, SCHEDULES)
        if self.dilation is not None:
            check_count("dilation", self.dilation, 0)
        for field in ("dense_steps", "skipped_steps", "half_steps", "outer_steps"):
            if isinstance(getattr(self, field), list):
                object.__setattr__(self, field, tuple(getattr(self, field)))
        self._check_dense_steps()
        for field in ("skipped_steps", "half_steps", "outer_steps"):
            check_steps(field, getattr(self, field))

    def _check_dense_steps(self) -> None:
        steps = self.dense_steps
        if isinstance(steps, tuple):
            if not is_rising(steps) or steps[:1] != (0,):
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
        ((0, 1, 4, 8, 13, 18, 24), (0, 1, 13))
        """
        wanted = PRESETS[self.preset].budget(count) if self.dense_steps is None else self.dense_steps
        return dense_steps(count, wanted, self.schedule or GROWING)

    def plan(self, count: int, active: float, first: int = 0, skips: bool = True, halves: bool = True) -> Plan:
        """A step for each of `count`; `active` is the region's share of the positions.

        No step reads what came before `first`, which runs dense itself. Without `skips` or `halves` such steps run
        packed or dense: not every scheduler takes a skipped step, and without guidance there are no halves.

        >>> Temporal(dense_steps=(0, 1, 4)).plan(6, active=0.1).codes
        'DDppDp'
        """
        if active >= NEARLY_ALL:
            return Plan((Step(),) * count)
        dense = self.dense_of(count)
        skipped = self._skipped(count, dense) if skips else ()
        half = self._half(count, dense) if halves else ()
        outer = self._outer(count, dense)
        if first:
            dense = (first, *(step for step in dense if step > first))
            half, outer = (tuple(step for step in kind if step > first) for kind in (half, outer))
        steps: list[Step] = [Step()] * first
        for step in range(first, count):
            computed = [other for other in range(first, step) if steps[other].positions != NONE]
            if step in outer:
                before = [other for other in dense if other < step]
                steps.append(Step(reads=forecast_terms(step, before, "linear"), outer=True))
            elif step in half:
                whole = [other for other in dense if other < step and other not in half and other not in outer]
                steps.append(Step(reads=tuple((other, 1.0) for other in whole[-1:]), half=True))
            elif step in dense:
                steps.append(Step())
            elif step in skipped and len(computed) > 1:
                known = computed[-2:]
                steps.append(Step(NONE, outputs=tuple(zip(known, forecast_weights(step, known), strict=True))))
            else:
                steps.append(Step(ACTIVE, forecast_terms(step, dense, self.forecast)))
        return Plan(tuple(steps))

    def _skipped(self, count: int, dense: tuple[int, ...]) -> tuple[int, ...]:
        """The steps that are skipped in a call of `count` steps."""
        if self.skipped_steps is None:
            return PRESETS[self.preset].skipped(count, dense)
        steps = tuple(step for step in self.skipped_steps if step < count)
        wrong = [step for step in steps if step < 2 or step in dense]
        if wrong:
            raise ConfigError(
                f"skipped_steps: got {wrong[0]}, expected steps from 2 on that are not dense, and of {count} steps "
                f"{_listed(dense)} are: a skipped step continues the outputs of two before it"
            )
        return steps

    def _half(self, count: int, dense: tuple[int, ...]) -> tuple[int, ...]:
        """The dense steps that run half in a call of `count` steps."""
        if self.half_steps is None:
            return PRESETS[self.preset].halved(count, dense)
        steps = tuple(step for step in self.half_steps if step < count)
        wrong = [step for step in steps if step not in dense]
        if wrong:
            raise ConfigError(f"half_steps: got {wrong[0]}, expected dense steps, of {count} steps {_listed(dense)}")
        return steps

    def _outer(self, count: int, dense: tuple[int, ...]) -> tuple[int, ...]:
        """The dense steps that leave out the deepest level in a call of `count` steps."""
        if self.outer_steps is None:
            return PRESETS[self.preset].outermost(count, dense)
        steps = tuple(step for step in self.outer_steps if step < count)
        wrong = [step for step in steps if step not in dense[1:]]
        if wrong:
            raise ConfigError(
                f"outer_steps: got {wrong[0]}, expected dense steps after the first, of {count} steps "
                f"{_listed(dense[1:])}: what they leave out comes from dense steps before"
            )
        return steps


def _listed(steps: tuple[int, ...]) -> str:
    return ", ".join(map(str, steps))
