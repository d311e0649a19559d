"""Rivals without sparsity: what a user could do to a dense run for less work. All are compared with its 30 steps.

dense 15 steps        the same scheduler with fewer steps
outputs 9 rising      9 steps dense; between them the model's output is a forecast from those of the dense steps
dense, skips of fast  the skipped steps of a preset, all others dense
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import sige
from benchmarks.quality.edits import Edit
from sdxl.edits.edit import edit as run_edit
from sdxl.edits.result import Result
from sdxl.edits.sampling import Sampling
from sige.policies.plan import NONE, Plan, Step
from sige.policies.schedule import forecast_terms

__all__ = ["DenseSkips", "FewerSteps", "OutputForecast", "rivals"]


@dataclass(frozen=True)
class FewerSteps:
    """The dense pipeline with fewer steps."""

    steps: int

    @property
    def name(self) -> str:
        return f"dense {self.steps} steps"

    def paint(self, pipe: Any, edit: Edit, sampling: Sampling) -> Result:
        result = run_edit(pipe, edit.image, mask=edit.mask, sampling=replace(sampling, steps=self.steps))
        counted = result.counted
        return replace(result, counted=replace(counted, dense_passes={**counted.dense_passes, "unet": sampling.steps}))


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
        return run_edit(pipe, edit.image, mask=edit.mask, sampling=sampling, policy=policy)


@dataclass(frozen=True)
class DenseSkips:
    """The skips of a preset on a dense run."""

    preset: str

    @property
    def name(self) -> str:
        return f"dense, skips of {self.preset}"

    def paint(self, pipe: Any, edit: Edit, sampling: Sampling) -> Result:
        return run_edit(pipe, edit.image, mask=edit.mask, sampling=sampling, policy=_DenseSkips(self.preset))


FORECASTS = ("none", "linear", "rising", "quadratic")


def rivals() -> list[FewerSteps | OutputForecast | DenseSkips]:
    """Every row of a rival without sparsity."""
    return [
        *(FewerSteps(steps) for steps in (20, 15, 10)),
        *(OutputForecast(dense, forecast) for dense in (6, 7, 9, 11, 13, 15) for forecast in FORECASTS),
        *(DenseSkips(preset) for preset in ("balanced", "fast")),
    ]
