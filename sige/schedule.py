"""Which steps run dense, and how the others read them: integers and weights, nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from sige.config import FORECASTS, EditConfig

__all__ = ["dense_steps", "forecast_weights", "forecast_terms"]

_GROWTH = 1.5  # step numbers grow as this power: gaps of 1, 3, 3, 5, 5, ... ; steeper ones overshoot at the end
_SHARE = 4  # of so many steps one is dense, unless a budget is given


def dense_steps(count: int, config: EditConfig) -> tuple[int, ...]:
    """The steps of `count` that run dense; always the first.

    >>> dense_steps(30, EditConfig(dense_steps=7))
    (0, 2, 5, 8, 13, 18, 24)
    >>> dense_steps(30, EditConfig(dense_steps=6, schedule="even"))
    (0, 5, 10, 15, 20, 25)
    >>> dense_steps(4, EditConfig()), dense_steps(1, EditConfig())
    ((0, 1), (0,))
    """
    if isinstance(config.dense_steps, tuple):
        return tuple(step for step in config.dense_steps if step < count)
    budget = config.dense_steps or max(-(-count // _SHARE), 2)
    power = _GROWTH if config.schedule == "growing" else 1.0
    steps: list[int] = []
    for i in range(min(budget, count)):
        wanted = round(count * (i / budget) ** power)
        steps.append(max(wanted, steps[-1] + 1) if steps else 0)
    return tuple(step for step in steps if step < count)


def forecast_terms(step: int, dense: Sequence[int], config: EditConfig) -> tuple[tuple[int, float], ...]:
    """The dense steps that a packed step reads, each with its weight.

    >>> forecast_terms(6, (0, 2, 5, 9), EditConfig(forecast="linear"))
    ((2, -0.333...), (5, 1.333...))
    """
    known = [other for other in dense if other <= step][-FORECASTS[config.forecast] :]
    return tuple(zip(known, forecast_weights(step, known), strict=True))


def forecast_weights(step: int, known: Sequence[int]) -> list[float]:
    """Weights of the polynomial through the known steps, continued to `step`; they add up to 1.

    >>> forecast_weights(4, [3]), forecast_weights(4, [2, 3]), forecast_weights(4, [1, 2, 3])
    ([1.0], [-1.0, 2.0], [1.0, -3.0, 3.0])
    """
    weights = []
    for one in known:
        weight = 1.0
        for other in known:
            if other != one:
                weight *= (step - other) / (one - other)
        weights.append(weight)
    return weights
