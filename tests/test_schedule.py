"""Schedules: the steps that run dense, and the weights with which the other steps read their recordings."""

from __future__ import annotations

import doctest
from math import ceil
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sige.policies.checks
import sige.policies.lockstep
import sige.policies.plan
import sige.policies.presets
import sige.policies.schedule
import sige.policies.schedulers
import sige.policies.temporal
from sige import ConfigError, Lockstep, Temporal
from sige.policies.plan import ACTIVE, ALL, NONE
from sige.policies.presets import PRESETS, SHORTEST
from sige.policies.schedule import dense_steps, forecast_terms, forecast_weights

policies = st.builds(
    Temporal,
    dense_steps=st.none() | st.integers(1, 60),
    schedule=st.sampled_from(["growing", "even"]),
    forecast=st.sampled_from(["none", "linear", "quadratic", "rising"]),
    preset=st.sampled_from(list(PRESETS)),
)


@given(count=st.integers(1, 60), policy=policies)
def test_a_schedule_begins_with_the_first_step_and_keeps_its_budget(count: int, policy: Temporal) -> None:
    steps = policy.dense_of(count)
    share = {"plain": 0.2, "quality": 0.3, "balanced": 7 / 30, "fast": 7 / 30, "fastest": 7 / 30}[policy.preset]
    budget = policy.dense_steps or max(ceil(share * count - 1e-9), 3 if count > 4 else 2)
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
    "preset": {"preset": "best"},
    "skipped": {"skipped_steps": 3},
    "skipped that fall": {"skipped_steps": (6, 4)},
    "half": {"half_steps": (0, 0)},
    "outer": {"outer_steps": (4, 1)},
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


@given(count=st.integers(1, 60), policy=policies, first=st.integers(0, 59), skips=st.booleans(), halves=st.booleans())
def test_a_plan_reads_only_what_is_there_and_not_what_came_before_first(
    count: int, policy: Temporal, first: int, skips: bool, halves: bool
) -> None:
    first = min(first, count - 1)
    plan = policy.plan(count, active=0.1, first=first, skips=skips, halves=halves)
    assert len(plan) == count and plan[first].positions == ALL and not plan[first].reads
    for index, step in enumerate(list(plan)[first:], first):
        assert all(first <= other < index and plan[other].positions == ALL for other, _ in step.reads)
        assert all(first <= other < index and plan[other].positions != NONE for other, _ in step.outputs)
        assert bool(step.reads) or step.positions != ACTIVE
        assert bool(step.outputs) == (step.positions == NONE) and (skips or not step.outputs)
        assert not step.half or (halves and step.positions == ALL and not any(plan[at].half for at, _ in step.reads))
        for terms in (step.reads, step.outputs):
            assert not terms or sum(weight for _, weight in terms) == pytest.approx(1)


@pytest.mark.parametrize("preset", PRESETS)
@given(count=st.integers(1, 60))
def test_a_preset_leaves_out_steps_of_long_calls_only(preset: str, count: int) -> None:
    plan = Temporal(preset).plan(count, active=0.1)
    whole = Temporal(preset, skipped_steps=(), half_steps=(), outer_steps=()).plan(count, active=0.1)
    changed = [(before, after) for before, after in zip(whole.codes, plan.codes, strict=True) if before != after]
    assert set(changed) <= {("p", "s"), ("D", "H"), ("D", "O")} and set(whole.codes) <= {"D", "p"}
    assert bool(changed) == (preset != "plain" and count >= SHORTEST)
    assert plan.work(packed=0.14) <= whole.work(packed=0.14)
    assert "s" not in plan.codes[:4]


def test_a_plan_of_thirty_steps_and_what_it_takes() -> None:
    plans = {name: Temporal(name).plan(30, active=0.1) for name in PRESETS}
    assert {name: plan.codes for name, plan in plans.items()} == {
        "plain": "DDpppDppppDpppppDppppppDpppppp",
        "quality": "DDpDspDspDspsDspsDspsDspsDspsp",
        "balanced": "DDppDspsDsspsDsspsDsspssDsspss",
        "fast": "HDppHspsDsspsHsspsDsspssHsspss",
        "fastest": "HDppHspsDsspsOsspsOsspssOsspss",
    }
    works = [plan.work(packed=1 / 7, outer=0.29) for plan in plans.values()]
    assert [round(work, 2) for work in works] == [9.43, 10.29, 8.0, 6.29, 5.01]


def test_steps_by_hand_that_do_not_fit_are_refused() -> None:
    for skipped in ((1,), (5, 8)):
        with pytest.raises(ConfigError, match=rf"skipped_steps: got {skipped[-1]}, expected .* 0, 1, 4, 8, 13, 18, 24"):
            Temporal(skipped_steps=skipped).plan(30, active=0.1)
    with pytest.raises(ConfigError, match=r"half_steps: got 2, expected dense steps, of 30 steps 0, 1, 4"):
        Temporal(half_steps=(0, 2)).plan(30, active=0.1)
    plan = Temporal("fast", skipped_steps=[28, 40], half_steps=()).plan(30, active=0.1)  # type: ignore[arg-type]
    assert plan.codes.count("s") == 1 and "H" not in plan.codes


def test_a_plan_in_words() -> None:
    lines = Temporal("fast").plan(30, active=0.1).describe().splitlines()
    assert lines[0] == "30 steps: 3 dense, 4 half dense, 7 packed, 16 skipped"
    assert lines[1] == "   0  half dense" and lines[3] == "   2  packed on 1"
    assert lines[5] == "   4  half dense, the other half packed on 1, recorded"
    assert lines[8] == "   7  skipped, from outputs of -0.5 x 4, 1.5 x 6"
    assert Lockstep().plan(2, active=0.1).describe().splitlines()[1] == "   0  the original recorded, packed on 0"


def test_nearly_everything_active_runs_dense() -> None:
    assert not any(step.reads for step in Temporal().plan(30, active=0.95))
    assert any(step.reads for step in Temporal().plan(30, active=0.94))


def test_examples() -> None:
    policies = sige.policies
    modules = (policies.schedule, policies.temporal, policies.lockstep, policies.plan, policies.presets)
    for module in (*modules, policies.checks, policies.schedulers):
        found = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
        assert found.attempted and not found.failed
