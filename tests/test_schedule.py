"""Schedules: the steps that run dense, and the weights with which the other steps read their recordings."""

from __future__ import annotations

import doctest
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sige.policies.lockstep
import sige.policies.plan
import sige.policies.schedule
import sige.policies.temporal
from sige import ConfigError, Lockstep, Temporal
from sige.policies.schedule import dense_steps, forecast_terms, forecast_weights

policies = st.builds(
    Temporal,
    dense_steps=st.none() | st.integers(1, 60),
    schedule=st.sampled_from(["growing", "even"]),
    forecast=st.sampled_from(["none", "linear", "quadratic", "rising"]),
)


@given(count=st.integers(1, 60), policy=policies)
def test_a_schedule_begins_with_the_first_step_and_keeps_its_budget(count: int, policy: Temporal) -> None:
    steps = policy.dense_of(count)
    budget = policy.dense_steps or max(-(-count // 5), 3 if count > 4 else 2)
    assert steps[0] == 0 and list(steps) == sorted(set(steps)) and steps[-1] < count
    assert len(steps) == min(budget, count)


@given(count=st.integers(8, 60), budget=st.integers(3, 12))
def test_gaps_grow_and_none_is_far_longer_than_the_last(count: int, budget: int) -> None:
    steps = [*dense_steps(count, min(budget, count)), count]
    gaps = [after - before for before, after in zip(steps, steps[1:], strict=False)]
    assert gaps[0] == 1 and all(gap <= 2 * count / budget + 1 for gap in gaps)
    assert all(after >= before - 1 for before, after in zip(gaps, gaps[1:], strict=False))


def test_even_gaps_are_even() -> None:
    assert dense_steps(30, 6, "even") == (0, 5, 10, 15, 20, 25)


def test_a_list_is_taken_as_it_is_as_far_as_there_are_steps() -> None:
    assert dense_steps(10, (0, 3, 9, 20)) == (0, 3, 9)
    assert Temporal(dense_steps=[0, 3]).dense_steps == (0, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize(("count", "expected"), [(1, (0,)), (2, (0, 1)), (4, (0, 1)), (5, (0, 1, 3)), (8, (0, 1, 4))])
def test_few_steps(count: int, expected: tuple[int, ...]) -> None:
    assert dense_steps(count) == expected


@given(known=st.lists(st.integers(0, 40), min_size=1, max_size=3, unique=True), step=st.integers(0, 60))
def test_forecasts_are_exact_on_polynomials_of_their_order(known: list[int], step: int) -> None:
    weights = forecast_weights(step, known)
    for power in range(len(known)):
        forecast = sum(weight * other**power for weight, other in zip(weights, known, strict=True))
        assert forecast == pytest.approx(
            step**power, abs=1e-6 * max(1, *(abs(weight) * 40**power for weight in weights))
        )


def test_a_forecast_reads_the_last_dense_steps_and_as_many_as_there_are() -> None:
    dense = (0, 2, 5, 9)
    for forecast, reads in (("none", [9]), ("linear", [5, 9]), ("quadratic", [2, 5, 9]), ("rising", [2, 5, 9])):
        assert [step for step, _ in forecast_terms(11, dense, forecast)] == reads
    for forecast, reads in (("none", [5]), ("linear", [2, 5]), ("quadratic", [2, 5]), ("rising", [2, 5])):
        assert [step for step, _ in forecast_terms(7, dense, forecast)] == reads


def test_a_rising_forecast_is_linear_until_the_last_dense_step() -> None:
    dense = (0, 1, 3, 6, 10)
    rising, linear, quadratic = "rising", "linear", "quadratic"
    assert forecast_terms(8, dense, rising) == forecast_terms(8, dense, linear)
    assert forecast_terms(8, dense, rising) != forecast_terms(8, dense, quadratic)
    assert forecast_terms(12, dense, rising) == forecast_terms(12, dense, quadratic)


@pytest.mark.parametrize("forecast", ["none", "linear", "quadratic", "rising"])
def test_the_first_step_is_read_only_before_there_is_another(forecast: str) -> None:
    assert forecast_terms(1, (0, 2, 5), forecast) == ((0, 1.0),)
    assert forecast_terms(4, (0, 2, 5), forecast) == ((2, 1.0),)


BAD: dict[str, dict[str, Any]] = {
    "schedule": {"schedule": "random"},
    "forecast": {"forecast": "cubic"},
    "dilation": {"dilation": -1},
    "dilation of another type": {"dilation": 1.5},
    "budget": {"dense_steps": 0},
    "budget of another type": {"dense_steps": "7"},
    "truth": {"dense_steps": True},
    "list without the first": {"dense_steps": (1, 2)},
    "falling list": {"dense_steps": (0, 5, 3)},
    "list twice": {"dense_steps": (0, 0)},
    "empty list": {"dense_steps": ()},
    "list of text": {"dense_steps": (0, "1")},
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_setting_that_does_not_exist_is_refused_by_name(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"{next(iter(bad))}: got .*, expected"):
        Temporal(**bad)


@pytest.mark.parametrize(
    "bad",
    [
        {"dilation": -1},
        {"exact_statistics": 1},
        {"original": "latents"},
        {"original": torch.zeros(4, 8, 8)},
        {"original": torch.zeros(1, 4, 8, 8, dtype=torch.int64)},
        {"original": torch.zeros(1, 4, 8, 8), "start": torch.zeros(8, 8)},
    ],
    ids=str,
)
def test_lockstep_refuses_by_name_what_is_no_latents(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"{list(bad)[-1]}: got .*, expected"):
        Lockstep(**bad)


def test_a_setting_without_effect_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"schedule: a list of dense_steps is a schedule already"):
        Temporal(dense_steps=(0, 3), schedule="even")
    with pytest.raises(ConfigError, match=r"start: it goes with the original"):
        Lockstep(start=torch.zeros(1, 4, 8, 8))
    with pytest.raises(TypeError, match="forecast"):
        Lockstep(forecast="linear")  # type: ignore[call-arg]


@given(count=st.integers(1, 40), policy=policies, first=st.integers(0, 39))
def test_a_plan_reads_only_what_was_recorded_before_and_not_before_first(
    count: int, policy: Temporal, first: int
) -> None:
    first = min(first, count - 1)
    plan = policy.plan(count, active=0.1, first=first)
    assert len(plan) == count and not plan[first].reads
    for index, step in enumerate(plan[first:], first):
        for other, _ in step.reads:
            assert first <= other < index and not plan[other].reads
        assert not step.reads or sum(weight for _, weight in step.reads) == pytest.approx(1)


def test_nearly_everything_active_runs_dense() -> None:
    assert not any(step.reads for step in Temporal().plan(30, active=0.95))
    assert any(step.reads for step in Temporal().plan(30, active=0.94))


def test_examples() -> None:
    for module in (sige.policies.schedule, sige.policies.temporal, sige.policies.lockstep, sige.policies.plan):
        found = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
        assert found.attempted and not found.failed
