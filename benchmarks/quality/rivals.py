"""Rivals without sparsity: what a user could do to a dense run for less work. All are compared with its 30 steps.

dense 15 steps        the same scheduler with fewer steps
outputs 9 rising      9 steps dense; between them the model's output is a forecast from those of the dense steps
dense, skips of fast  the skipped steps of a preset, all others dense
depth cached 3        every third step dense; the others keep the deepest level's output of the last one (DeepCache's
                      rule; it keeps more levels in its fastest settings)
tome 0.5 level 2      every pass dense, half of the tokens merged around self-attention at the levels down to 2 (ToMe)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import sige
from benchmarks.quality.edits import Edit
from benchmarks.quality.merging import merged
from benchmarks.quality.painting import paint
from sdxl.edits.result import Result
from sdxl.edits.sampling import Sampling
from sige.policies.plan import NONE, Plan, Step
from sige.policies.schedule import forecast_terms

__all__ = ["DenseSkips", "DepthCached", "FewerSteps", "OutputForecast", "TokenMerging", "rivals"]


@dataclass(frozen=True)
class FewerSteps:
    """The dense pipeline with fewer steps."""

    steps: int

    @property
    def name(self) -> str:
        return f"dense {self.steps} steps"

    def paint(self, pipe: Any, edit: Edit, sampling: Sampling) -> Result:
        result = paint(pipe, edit, sampling=replace(sampling, steps=self.steps))
        counted = result.counted
        task = "inpainting" if edit.edited is None else "sdedit"
        taken = int(sampling.steps * sampling.strength_of(task))
        return replace(result, counted=replace(counted, dense_passes={**counted.dense_passes, "unet": taken}))


class _OutputForecast(sige.Temporal):
    """Dense steps, and between them weighted sums of their outputs: the recordings' forecast on outputs."""

    def plan(self, count: int, active: float, first: int = 0, skips: bool = True, halves: bool = True) -> Plan:
        dense = self.dense_of(count)
        return Plan(
            tuple(
                Step() if step in dense else Step(NONE, outputs=forecast_terms(step, dense, self.forecast))
                for step in range(count)
            )
        )


class _DenseSkips(sige.Temporal):
    """The plan of a preset with dense steps in place of packed ones."""

    def plan(self, count: int, active: float, first: int = 0, skips: bool = True, halves: bool = True) -> Plan:
        steps = super().plan(count, 0.0, first, skips, halves=False)
        return Plan(tuple(step if step.positions == NONE else Step() for step in steps))


@dataclass(frozen=True)
class OutputForecast:
    """Output forecasts from `dense` steps; exactly `sige`'s skipped steps, without a packed pass."""

    dense: int
    forecast: str

    @property
    def name(self) -> str:
        return f"outputs {self.dense} {self.forecast}"

    def paint(self, pipe: Any, edit: Edit, sampling: Sampling) -> Result:
        policy = _OutputForecast(dense_steps=self.dense, forecast=self.forecast)
        return paint(pipe, edit, sampling=sampling, policy=policy)


@dataclass(frozen=True)
class DenseSkips:
    """The skips of a preset on a dense run."""

    preset: str

    @property
    def name(self) -> str:
        return f"dense, skips of {self.preset}"

    def paint(self, pipe: Any, edit: Edit, sampling: Sampling) -> Result:
        return paint(pipe, edit, sampling=sampling, policy=_DenseSkips(self.preset))


class _DepthCached(sige.Temporal):
    """Dense steps at equal distances; between them the outer levels, on the last dense step's deepest level."""

    def plan(self, count: int, active: float, first: int = 0, skips: bool = True, halves: bool = True) -> Plan:
        dense = self.dense_of(count)
        return Plan(
            tuple(
                Step() if step in dense else Step(reads=((max(one for one in dense if one < step), 1.0),), outer=True)
                for step in range(count)
            )
        )


@dataclass(frozen=True)
class DepthCached:
    """Depth caching at an interval, without sparsity."""

    interval: int

    @property
    def name(self) -> str:
        return f"depth cached {self.interval}"

    def paint(self, pipe: Any, edit: Edit, sampling: Sampling) -> Result:
        steps = tuple(range(0, sampling.steps, self.interval))
        return paint(pipe, edit, sampling=sampling, policy=_DepthCached(dense_steps=steps))


@dataclass(frozen=True)
class TokenMerging:
    """Token merging in a run that is dense otherwise."""

    ratio: float
    level: int  # the coarsest that merges

    @property
    def name(self) -> str:
        return f"tome {self.ratio:g} level {self.level}"

    def paint(self, pipe: Any, edit: Edit, sampling: Sampling) -> Result:
        with merged(pipe, self.ratio, self.level):
            return paint(pipe, edit, sampling=sampling)


FORECASTS = ("none", "linear", "rising", "quadratic")


def rivals() -> list[FewerSteps | OutputForecast | DenseSkips | DepthCached | TokenMerging]:
    """Every row of a rival without sparsity."""
    return [
        *(FewerSteps(steps) for steps in (20, 15, 10)),
        *(OutputForecast(dense, forecast) for dense in (6, 7, 9, 11, 13, 15) for forecast in FORECASTS),
        *(DenseSkips(preset) for preset in ("balanced", "fast")),
        *(DepthCached(interval) for interval in (2, 3, 5)),
        *(TokenMerging(0.5, level) for level in (2, 4)),
    ]
