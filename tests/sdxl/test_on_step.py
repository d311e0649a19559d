"""on_step: what it is told, and the state after an edit that it has cancelled."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sdxl
import sige
from sdxl.edits.preview import rgb_map
from sdxl.edits.steps import Progress, Step, count_steps
from sdxl.pipelines.schedulers import make_scheduler
from sige import Lockstep, Policy, Recording, Temporal
from tests.sdxl.edits import drawn, load, picture, rectangle, sampling

POLICIES = {"dense": None, "temporal": Temporal(dense_steps=2), "lockstep": Lockstep()}
every_policy = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)


@pytest.fixture(scope="module")
def pipe(project_folder: Path) -> Any:
    return load(project_folder, "inpainting")


@pytest.fixture(scope="module")
def refiner(project_folder: Path) -> Any:
    return load(project_folder, "inpainting", refiner=True)


@pytest.fixture(scope="module")
def fresh(project_folder: Path) -> dict[str, bytes]:
    """The pictures of a pipeline on which no edit was cancelled."""
    pipe = load(project_folder, "inpainting")
    return {name: paint(pipe, policy).image.tobytes() for name, policy in POLICIES.items()}


@pytest.fixture(scope="module")
def refined() -> dict[Any, bytes]:
    """Pictures that tests have painted with a refiner, by policy and split."""
    return {}


def paint(pipe: Any, policy: Policy | None, refiner: Any = None, on_step: Any = None, **said: Any) -> sdxl.Result:
    more = {"policy": policy, "refiner": refiner, "on_step": on_step}
    return sdxl.edit(pipe, picture(), mask=rectangle(), sampling=sampling(**said), **more)


class Decodings:
    """Counts the calls of the VAEs' decoders."""

    def __init__(self, *pipes: Any) -> None:
        self.count = 0
        self._hooks = [pipe.vae.decoder.register_forward_pre_hook(self._add) for pipe in pipes if pipe is not None]

    def _add(self, *_: Any) -> None:
        self.count += 1

    def __enter__(self) -> Decodings:
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Recording]]:
    """Every recording that is made."""
    made: list[weakref.ref[Recording]] = []
    inner = Recording.__init__

    def init(self: Recording, *args: Any, **kwargs: Any) -> None:
        inner(self, *args, **kwargs)
        made.append(weakref.ref(self))

    monkeypatch.setattr(Recording, "__init__", init)
    return made


# ---- what it is told -------------------------------------------------------------------------------------------------


@every_policy
def test_it_is_called_after_each_step_and_changes_nothing(pipe: Any, policy: Policy | None) -> None:
    told: list[Step] = []
    result = paint(pipe, policy, on_step=told.append)
    assert [(step.number, step.steps) for step in told] == [(number, 5) for number in range(1, 6)]
    assert result.steps == (5,)
    assert result.image.tobytes() == paint(pipe, policy).image.tobytes()


@pytest.mark.parametrize("scheduler", ["ddim", "euler", "heun"])
@pytest.mark.parametrize("split", [None, 0.6])
def test_steps_count_base_and_refiner_together(pipe: Any, refiner: Any, split: float | None, scheduler: str) -> None:
    own = pipe.scheduler, refiner.scheduler
    for one in (pipe, refiner):
        one.scheduler = make_scheduler(scheduler, "sdxl-base", dict(own[0].config))
    told: list[Step] = []
    try:
        result = paint(pipe, None, refiner, told.append, steps=10, denoising_split=split)
    finally:
        pipe.scheduler, refiner.scheduler = own
    total = len(told)
    assert [(step.number, step.steps) for step in told] == [(number, total) for number in range(1, total + 1)]
    assert len(result.steps) == 2 and sum(result.steps) == total and min(result.steps) > 0


def test_steps_to_come_are_counted_by_the_pipeline_s_own_rule(project_folder: Path) -> None:
    pipe = load(project_folder, "sdedit")
    before = pipe.scheduler.timesteps
    assert count_steps(pipe, 10, {"strength": 0.3}) == 3
    assert pipe.scheduler.timesteps is before
    sdxl.sdedit(pipe, None, drawn(), sampling=sampling(steps=10, strength=0.3))
    assert pipe.num_timesteps == 3


@pytest.mark.parametrize("size", [(96, 64), (61, 45)])
def test_a_preview_has_the_picture_s_size_and_needs_no_decoder(pipe: Any, size: tuple[int, int]) -> None:
    previews: list[Image.Image] = []
    with Decodings(pipe) as decodings:
        sdxl.edit(
            pipe,
            picture(*size),
            mask=rectangle(*size),
            sampling=sampling(),
            on_step=lambda step: previews.append(step.preview()),
        )
    assert decodings.count == 1
    assert [(preview.size, preview.mode) for preview in previews] == [(size, "RGB")] * 5
    assert previews[0].tobytes() != previews[-1].tobytes()


def test_a_preview_is_the_linear_map_of_the_latents(pipe: Any) -> None:
    shown: list[np.ndarray] = []
    latents: list[torch.Tensor] = []

    def on_step(step: Step) -> None:
        shown.append(np.asarray(step.preview()))

    inner = pipe.scheduler.step

    def spy(*args: Any, **kwargs: Any) -> Any:
        out = inner(*args, **kwargs)
        latents.append(out[0])
        return out

    pipe.scheduler.step = spy
    try:
        import inspect

        spy.__signature__ = inspect.signature(inner)  # type: ignore[attr-defined]
        paint(pipe, None, on_step=on_step)
    finally:
        del pipe.scheduler.step
    weight, bias = rgb_map(float(pipe.vae.config.scaling_factor), 4)
    mean = (latents[-1][0].permute(1, 2, 0) @ weight + bias).clamp(-1, 1).mean(dim=(0, 1))
    found = shown[-1].reshape(-1, 3).mean(axis=0) / 127.5 - 1
    assert np.abs(found - mean.numpy()).max() < 0.02


@pytest.mark.parametrize(("factor", "grey"), [(0.13025, False), (0.18215, False), (1.0, False), (0.5, True)])
def test_known_families_have_colours_and_others_are_grey(factor: float, grey: bool) -> None:
    weight, bias = rgb_map(factor, 4)
    assert weight.shape == (4, 3) and bias.shape == (3,)
    assert bool((weight == weight[:, :1]).all()) is grey
    assert rgb_map(factor, 16)[0].shape == (16, 3)


# ---- cancelled -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("raises", [False, True], ids=["returns False", "raises"])
def test_a_cancelled_edit_decodes_nothing_and_leaves_nothing(
    pipe: Any, name: str, raises: bool, recordings: list[weakref.ref[Recording]], fresh: dict[str, bytes]
) -> None:
    policy = POLICIES[name]
    recordings.clear()

    def on_step(step: Step) -> bool:
        if step.number < 3:
            return True
        if raises:
            raise sdxl.Cancelled("enough")
        return False

    message = "enough" if raises else "after step 3 of 5"
    with Decodings(pipe) as decodings, pytest.raises(sdxl.Cancelled, match=message) as caught:
        paint(pipe, policy, on_step=on_step)
    assert decodings.count == 0
    assert bool(recordings) is (policy is not None)
    gc.collect()
    assert all(recording() is None for recording in recordings), "although the error is still held"
    assert message in str(caught.value)
    assert sige.handle_of(pipe) is None and "forward" not in vars(pipe.unet) | vars(pipe.vae.decoder)
    assert not {"encode", "decode"} & set(vars(pipe.vae)) and not pipe.interrupt
    assert not {"_get_add_time_ids", "prepare_mask_latents"} & set(vars(pipe))
    assert not pipe.unet._forward_pre_hooks and not pipe.vae.decoder._forward_pre_hooks
    assert paint(pipe, policy).image.tobytes() == fresh[name]


def test_the_error_keeps_no_latents_alive(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    latents: list[weakref.ref[torch.Tensor]] = []
    inner = Progress.__call__

    def call(self: Progress, pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        latents.append(weakref.ref(values["latents"]))
        return inner(self, pipe, step, timestep, values)

    monkeypatch.setattr(Progress, "__call__", call)
    with pytest.raises(sdxl.Cancelled) as caught:
        paint(pipe, None, on_step=lambda step: False)
    gc.collect()
    assert len(latents) == 1 and latents[0]() is None
    assert caught.value.__traceback__ is not None


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize(("at", "split"), [(2, None), (9, 0.6)], ids=["in the base", "in the refiner"])
def test_an_edit_with_a_refiner_can_be_cancelled(
    pipe: Any, refiner: Any, name: str, at: int, split: float | None, refined: dict[Any, bytes]
) -> None:
    policy, said = POLICIES[name], {"steps": 10, "denoising_split": split}
    if split is None:
        at += 2 * (at > 5)  # 10 steps of the base come first
    if (name, split) not in refined:
        refined[name, split] = paint(pipe, policy, refiner, **said).image.tobytes()
    told: list[int] = []

    def on_step(step: Step) -> bool:
        told.append(step.number)
        return step.number != at

    with Decodings(pipe, refiner) as decodings, pytest.raises(sdxl.Cancelled, match=f"after step {at} of"):
        paint(pipe, policy, refiner, on_step, **said)
    assert told == list(range(1, at + 1)) and decodings.count == 0
    assert sige.handle_of(pipe) is None and sige.handle_of(refiner) is None
    assert paint(pipe, policy, refiner, **said).image.tobytes() == refined[name, split]


@pytest.mark.parametrize("policy", [POLICIES["temporal"], POLICIES["lockstep"]], ids=["temporal", "lockstep"])
def test_a_pipeline_that_the_caller_has_enabled_stays_so(pipe: Any, policy: Policy) -> None:
    with sige.enable(pipe) as handle:
        before = paint(pipe, policy).image.tobytes()
        with pytest.raises(sdxl.Cancelled):
            paint(pipe, policy, on_step=lambda step: False)
        assert sige.handle_of(pipe) is handle
        assert paint(pipe, policy).image.tobytes() == before


def test_another_error_of_the_callback_comes_through(pipe: Any) -> None:
    def on_step(step: Step) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        paint(pipe, Temporal(), on_step=on_step)
    assert sige.handle_of(pipe) is None


def test_models_that_are_offloaded_go_back_after_a_cancel(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    freed: list[int] = []
    monkeypatch.setattr(type(pipe), "maybe_free_model_hooks", lambda self: freed.append(1))
    with pytest.raises(sdxl.Cancelled):
        paint(pipe, None, on_step=lambda step: False)
    assert freed == [1]
