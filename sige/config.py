"""EditConfig: how a pipeline's steps are shared between dense and packed passes."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any

from sige.errors import ConfigError

__all__ = ["FORECASTS", "POLICIES", "SCHEDULES", "EditConfig"]

POLICIES = ("temporal", "lockstep")
SCHEDULES = ("growing", "even")
FORECASTS = ("none", "linear", "quadratic", "rising")


@dataclass(frozen=True)
class EditConfig:
    """What `sige.enable(pipe, config)` does with each step of the pipeline's calls inside `handle.edit(region)`.

    temporal: at some steps the edit itself runs dense and is recorded; the steps between run packed, on a forecast
    made from the last recordings. lockstep: at every step the original's noised latents run dense and are recorded,
    then the edit runs packed on that; slower than dense, the reference for quality.

    >>> EditConfig(dense_steps=7, forecast="linear").policy
    'temporal'
    """

    policy: str = "temporal"
    dense_steps: int | tuple[int, ...] | None = None  # how many, or which; None: a fifth, at least 3 (2 of up to 4)
    schedule: str = "growing"  # the gaps between dense steps: growing, or even
    forecast: str = "rising"  # none: the last recording as it is; linear from two, quadratic from three;
    #                           rising: linear, and quadratic after the last dense step
    dilation: int | None = None  # of a region that is made from a mask; None: 0, in lockstep 1
    exact_statistics: bool = True  # False freezes GroupNorm's statistics, for comparison

    def __post_init__(self) -> None:
        _one_of("policy", self.policy, POLICIES)
        _one_of("schedule", self.schedule, SCHEDULES)
        _one_of("forecast", self.forecast, FORECASTS)
        if self.dilation is not None and not _is_count(self.dilation, 0):
            raise ConfigError(f"dilation: got {self.dilation!r}, expected an integer of at least 0")
        steps = self.dense_steps
        if isinstance(steps, list):
            object.__setattr__(self, "dense_steps", tuple(steps))
        elif not (steps is None or isinstance(steps, tuple) or _is_count(steps, 1)):
            raise ConfigError(f"dense_steps: got {steps!r}, expected how many (at least 1) or a list of step numbers")
        if isinstance(self.dense_steps, tuple):
            self._check_list(self.dense_steps)

    @property
    def dilates_by(self) -> int:
        """Positions that a mask grows by. Temporal's recordings are the edit's own, so what lies around fits already.

        >>> EditConfig().dilates_by, EditConfig(policy="lockstep").dilates_by, EditConfig(dilation=2).dilates_by
        (0, 1, 2)
        """
        return (1 if self.policy == "lockstep" else 0) if self.dilation is None else self.dilation

    @staticmethod
    def _check_list(steps: tuple[int, ...]) -> None:
        rising = all(_is_count(step, 0) for step in steps) and list(steps) == sorted(set(steps))
        if not rising or steps[:1] != (0,):
            raise ConfigError(
                f"dense_steps: got {steps}, expected rising step numbers that begin with 0: the first step has "
                "nothing to read"
            )


def _one_of(name: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{name}: got {value!r}, expected one of {', '.join(known)}")


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least
