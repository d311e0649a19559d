"""The steps that run dense and the weights with which the others read them: numbers only."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["FORECASTS", "GROWING", "SCHEDULES", "dense_steps", "forecast_terms", "forecast_weights"]

GROWING, EVEN = "growing", "even"
SCHEDULES = (GROWING, EVEN)
FORECASTS = ("none", "linear", "quadratic", "rising")

_GROWTH = 1.3  # from the second step on, step numbers grow as this power: 30 steps have gaps of 1, 4, 5, 6, 7, 7
_SHARE = 5  # one step of five is dense, unless a budget is given
_ORDERS = {"none": 1, "linear": 2, "quadratic": 3}  # recordings that each reads


def dense_steps(count: int, wanted: int | tuple[int, ...] | None = None, schedule: str = GROWING) -> tuple[int, ...]:
    """The steps of `count` that run dense: as many as wanted, or those in the list.

    The first step always runs dense; with growing gaps the second does, too.

    >>> dense_steps(30), dense_steps(30, 7)
    ((0, 1, 5, 10, 16, 23), (0, 1, 4, 8, 13, 18, 24))
    >>> dense_steps(30, 6, "even")
    (0, 5, 10, 15, 20, 25)
    >>> dense_steps(8), dense_steps(4), dense_steps(1)
    ((0, 1, 4), (0, 1), (0,))
    """
    if isinstance(wanted, tuple):
        return tuple(step for step in wanted if step < count)
    budget = min(wanted or max(-(-count // _SHARE), 3 if count > 4 else 2), count)
    if schedule == EVEN:
        return tuple(round(count * i / budget) for i in range(budget))
    steps = [0]
    for i in range(budget - 1):
        next_step = 1 + round((count - 1) * (i / (budget - 1)) ** _GROWTH)
        steps.append(max(next_step, steps[-1] + 1))
    return tuple(steps)


def forecast_terms(step: int, dense: Sequence[int], forecast: str = "rising") -> tuple[tuple[int, float], ...]:
    """The dense steps that a packed step reads, each with its weight.

    The first step is read only before there is another: what a model does on noise alone says little about what it
    does next (docs/quality.md).

    >>> forecast_terms(6, (0, 2, 5, 9), "linear")
    ((2, -0.333...), (5, 1.333...))
    >>> [len(forecast_terms(step, (0, 1, 4, 9, 16))) for step in (2, 5, 10, 17)]
    [1, 2, 2, 3]
    """
    before = [other for other in dense if other <= step]
    order = _ORDERS.get(forecast) or (3 if before[-1] == dense[-1] else 2)
    known = (before[1:] or before)[-order:]
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
