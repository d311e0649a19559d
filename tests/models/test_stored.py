"""Edits on a store: what the runner leaves there, what it reads, and what the edit would change there."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch

import sige
from sige import Store, Stored, Temporal
from sige.errors import ConfigError
from sige.passes import Passes
from sige.policies.plan import ACTIVE, NONE
from sige.policies.stored import interpolated
from sige.recordings import Patch, half_of, mixed
from tests.models.job import STEPS, Job
from tests.models.test_properties import relative_error

EVERY = tuple(range(STEPS))
DENSE = Temporal(dense_steps=EVERY)


def plan_codes(policy: Stored, **options: Any) -> str:
    return policy.plan(STEPS, 0.1, **options).codes


# ---- plans -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [(0, 1, 4, 8, 13, 18, 24), (0, 9, 20), (3,)])
@pytest.mark.parametrize("half", [(), (0, 1), (1, 5, 12)])
def test_weights_add_up_to_one_and_a_corrected_stored_step_is_reproduced(
    steps: tuple[int, ...], half: tuple[int, ...]
) -> None:
    plan = Stored(steps, half_steps=half).plan(30, 0.1)
    for index, step in enumerate(plan):
        if step.positions == ACTIVE:
            assert sum(weight for _, weight in (*step.reads, *step.stored)) == pytest.approx(1)
            assert all(at < index for at, _ in step.reads) and all(at in steps for at, _ in step.stored)
        if step.positions == NONE:
            assert index not in steps and len(step.outputs) == 2


def test_an_interpolation_goes_through_every_parabola() -> None:
    stored = (0, 1, 4, 8, 13, 18, 24)
    for step in range(1, 30):
        terms = interpolated(step, stored)
        assert sum(weight * (3.0 - 2.0 * at + 0.5 * at**2) for at, weight in terms) == pytest.approx(
            3.0 - 2.0 * step + 0.5 * step**2
        )
        nodes = [at for at, _ in terms]
        assert step in nodes or step > 24 or min(nodes) < step < max(nodes)


def test_without_halves_corrected_steps_run_dense_and_with_everything_active_all_do() -> None:
    policy = Stored((0, 1, 4), half_steps=(1,), dense_steps=(4,), skipped_steps=(4, 6))
    assert plan_codes(policy) == "pHppDpsp"
    assert plan_codes(policy, halves=False) == "pDppDpsp"
    assert plan_codes(policy, skips=False) == "pHppDppp"
    assert policy.plan(STEPS, 0.97).codes == "D" * STEPS


def test_mistakes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^steps: got none"):
        Stored(())
    with pytest.raises(ConfigError, match=r"^half_steps: got \(2, 1\)"):
        Stored((0,), half_steps=(2, 1))
    job = Job("XLInpaint")
    with sige.enable(job.pipe) as handle:
        with pytest.raises(ConfigError, match=r"^store: sige.Stored reads"), handle.edit(job.mask, Stored((0,))):
            pass
        region = sige.Region.from_mask(job.mask)
        with pytest.raises(ConfigError, match=r"^patch: a policy"), handle.edit(region, patch=Patch(region)):
            pass
        blend = [(sige.Recording(), 1.0)]
        with pytest.raises(ConfigError, match=r"^store: a policy"), handle.edit(region, blend=blend, store=Store()):
            pass


# ---- what runs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["XLInpaint", "Inpaint"])
def test_the_same_edit_on_its_own_recordings_is_itself(kind: str) -> None:
    """Every step was recorded and nothing has changed, so packed passes give back what was recorded."""
    job = Job(kind)
    store = Store()
    with sige.enable(job.pipe) as handle:
        with handle.edit(job.mask, DENSE, store=store):
            first = job()
        assert store.steps("unet") == EVERY
        with handle.edit(job.mask, Stored(EVERY, half_steps=()), store=store):
            again = job()
        assert handle.passes == Passes(packed=STEPS)
        assert relative_error(again, first) < 1e-4
        with handle.edit(job.mask, Stored(EVERY, half_steps=(2,), dense_steps=(5,)), store=store):
            again = job()
        assert handle.passes == Passes(packed=STEPS - 2, half=1, dense=1)
        assert relative_error(again, first) < 1e-4


def test_a_sparse_first_edit_leaves_its_dense_steps() -> None:
    job = Job("XLInpaint")
    store = Store()
    with sige.enable(job.pipe) as handle:
        with handle.edit(job.mask, Temporal(dense_steps=(0, 1, 4, 7)), store=store):
            with_store = job()
        with handle.edit(job.mask, Temporal(dense_steps=(0, 1, 4, 7))):
            assert torch.equal(with_store, job())
        assert store.steps("unet") == (0, 1, 4, 7)
        assert handle.patches == {}


def test_a_half_step_reads_the_store_for_the_half_without_the_prompt() -> None:
    """The definition, made of the engine's parts: what an edit on the store leaves at a half step."""
    job = Job("XLInpaint")
    store = Store()
    with sige.enable(job.pipe) as handle:
        with handle.edit(job.mask, Temporal(dense_steps=(0, 1, 4)), store=store):
            job()
        with handle.edit(job.mask, Stored((0, 1, 4), half_steps=(4,)), store=store):
            job()
        patch = handle.patches[4]
        stored = store.get("unet", 4)
        expected = mixed([(half_of(stored, "unet", second=False), 1.0)], "unet")
        first = Patch.of(half_of(stored, "unet", second=False).components["unet"], patch.region, "unet")
        for key, rows in patch.rows.items():
            assert torch.equal(rows[:1], first.rows[key])
        assert expected.rows.keys() == patch.rows.keys()


def test_each_stored_step_has_a_patch_of_the_region() -> None:
    job = Job("XLInpaint")
    store = Store()
    with sige.enable(job.pipe) as handle:
        with handle.edit(job.mask, Temporal(dense_steps=(0, 1, 4)), store=store):
            job()
        before = store.get("unet", 4).components["unet"]
        rows = {key: one.clone() for key, one in before.rows.items()}
        with handle.edit(job.mask, Stored((0, 1, 4), half_steps=(1,)), store=store):
            job()
        patches = handle.patches
    assert set(patches) == {0, 1, 4}
    assert all(patches[step].rows.keys() == rows.keys() for step in patches)
    active = int(patches[4].region.active(16, 16).sum())
    assert patches[4].rows["conv_in"].shape[1] == active
    assert all(torch.equal(one, rows[key]) for key, one in store.get("unet", 4).components["unet"].rows.items())
    store.patch({("unet", step): patch for step, patch in patches.items()})
    after = store.get("unet", 4).components["unet"].rows["conv_in"]
    changed = (after != rows["conv_in"]).any(dim=2)[0].view(16, 16)
    assert np.array_equal(changed.numpy() & ~patches[4].region.active(16, 16), np.zeros((16, 16), dtype=bool))


def test_a_noisy_scheduler_runs_the_skipped_steps_packed(caplog: pytest.LogCaptureFixture) -> None:
    job = Job("XLInpaint", "EulerAncestralDiscreteScheduler")
    store = Store()
    with caplog.at_level(logging.WARNING), sige.enable(job.pipe) as handle:
        with handle.edit(job.mask, Temporal(dense_steps=(0, 1, 4)), store=store):
            job()
        with handle.edit(job.mask, Stored((0, 1, 4), half_steps=(1,), skipped_steps=(3, 6)), store=store):
            job()
        assert handle.passes == Passes(packed=STEPS - 1, half=1)
    assert "no step is skipped" in caplog.text
