"""Sessions: edit after edit of one picture, on random weights."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sdxl
import sige
from sdxl.edits.sampling import Sampling
from sdxl.errors import Cancelled, InputError
from sdxl.sessions.session import Session
from tests.sdxl.edits import SIDE, load, picture, rectangle, sampling

TASKS = ("inpainting", "img2img")


@pytest.fixture(scope="module")
def pipe(project_folder: Path) -> Any:
    return load(project_folder, "inpainting")


@pytest.fixture(scope="module")
def wide(project_folder: Path) -> Any:
    """A UNet that takes the mask beside the latents."""
    return load(project_folder, "inpainting", model="sdxl-inpaint")


def elsewhere() -> np.ndarray:  # [H, W]
    mask = np.zeros((SIDE, SIDE), dtype=np.float32)
    mask[44:60, 2:18] = 1
    return mask


def pixels(image: Any) -> np.ndarray:
    return np.asarray(getattr(image, "image", image))


def same(one: Any, other: Any) -> bool:
    return np.array_equal(pixels(one), pixels(other))


def settings(**changes: Any) -> Sampling:
    return sampling(**{"steps": 20, **changes})


# ---- one edit --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["pipe", "wide"])
@pytest.mark.parametrize("steps", [5, 20])
def test_the_first_edit_is_that_of_a_call_without_a_session(
    weights: str, steps: int, request: pytest.FixtureRequest
) -> None:
    pipe = request.getfixturevalue(weights)
    policy = sige.Temporal()
    expected = sdxl.edit(pipe, picture(), mask=rectangle(), sampling=settings(steps=steps), policy=policy)
    with Session(pipe, picture(), policy=policy) as session:
        found = session.edit(rectangle(), settings(steps=steps))
        assert same(found, expected)
        assert found.passes == expected.passes
    assert sige.handle_of(pipe) is None


def test_a_dense_edit_is_that_of_a_call_without_a_session(pipe: Any) -> None:
    expected = sdxl.edit(pipe, picture(), mask=rectangle(), sampling=settings())
    with Session(pipe, picture()) as session:
        found = session.edit(rectangle(), settings(), dense=True)
        assert session.store.nbytes == 0
    assert np.abs(pixels(found).astype(int) - pixels(expected)).max() <= 1  # its weights are channels-last


@pytest.mark.parametrize("weights", ["pipe", "wide"])
def test_a_later_edit_runs_on_the_store_and_is_close_to_dense(weights: str, request: pytest.FixtureRequest) -> None:
    with Session(request.getfixturevalue(weights), picture()) as session:
        first = session.edit(rectangle(), settings())
        again = session.retry(seed=8)
        dense = session.edit(rectangle(), settings(seed=8), dense=True)
        assert again.passes["unet"].dense == 0 and again.passes["vae.decoder"].packed == 1
        assert again.work < 0.5  # the region is a third of this small picture
        inside = rectangle() > 0
        error = np.abs(pixels(again).astype(float) - pixels(dense))[inside].mean()
        assert error < 0.5 * np.abs(pixels(first).astype(float) - pixels(dense))[inside].mean()
        assert np.array_equal(pixels(again)[~inside], pixels(picture())[~inside])


def test_few_steps_are_all_recorded_and_later_ones_all_packed_but_two(pipe: Any) -> None:
    with Session(pipe, picture()) as session:
        assert session.edit(rectangle(), settings(steps=4)).passes["unet"] == sige.passes.Passes(dense=4)
        assert session.retry(seed=1).passes["unet"] == sige.passes.Passes(half=2, packed=2)
        session.edit(rectangle(), settings(steps=4, scale=1.0))
        assert session.retry(seed=1).passes["unet"] == sige.passes.Passes(dense=2, packed=2)


# ---- accept, undo, retry ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["pipe", "wide"])
def test_many_edits_in_a_row_leave_every_pixel_outside_every_mask_as_it_was(
    weights: str, request: pytest.FixtureRequest
) -> None:
    rng = np.random.default_rng(3)
    painted = np.zeros((SIDE, SIDE), dtype=bool)
    with Session(request.getfixturevalue(weights), picture()) as session:
        for seed in range(6):
            mask = np.zeros((SIDE, SIDE), dtype=np.float32)
            top, left = (int(side) for side in rng.integers(0, SIDE - 16, 2))
            mask[top : top + 12, left : left + 16] = 1
            before = session.picture
            result = session.edit(mask, settings(seed=seed))
            assert np.array_equal(pixels(result)[mask == 0], pixels(before)[mask == 0])
            assert same(session.picture, before)
            session.accept(result)
            assert same(session.picture, result)
            painted |= mask > 0
        assert np.array_equal(pixels(session.picture)[~painted], pixels(picture())[~painted])
        assert not painted.all()


def test_undo_gives_back_the_picture_and_the_state_it_had(pipe: Any) -> None:
    with Session(pipe, picture()) as session:
        session.accept(session.edit(rectangle(), settings()))
        pictures = [picture(), session.picture]
        expected = session.edit(rectangle(), settings(seed=3))
        session.accept()
        assert same(session.undo(), pictures[1])
        assert same(session.edit(rectangle(), settings(seed=3)), expected)
        assert same(session.undo(), pictures[0])
        with pytest.raises(InputError, match=r"^undo: this is the picture that the session began with"):
            session.undo()


def test_an_edit_that_was_not_accepted_changes_nothing(pipe: Any) -> None:
    with Session(pipe, picture()) as session:
        session.edit(rectangle(), settings())
        expected = session.edit(rectangle(), settings(seed=5))
        session.edit(rectangle(), settings(seed=6))
        assert same(session.edit(rectangle(), settings(seed=5)), expected)
        assert same(session.picture, picture())


def test_another_place_is_a_first_edit_with_the_decoder_packed_and_a_part_of_one_is_not(pipe: Any) -> None:
    part = rectangle() * (np.arange(SIDE) < 34)
    with Session(pipe, picture()) as session:
        first = session.edit(rectangle(), settings())
        assert session.edit(part, settings(seed=2)).passes["unet"].dense == 0
        other = session.edit(elsewhere(), settings())
        assert other.passes["unet"] == first.passes["unet"]
        assert other.passes["vae.decoder"] == sige.passes.Passes(packed=1) and "vae.encoder" not in other.passes
        assert session.edit(elsewhere(), settings(seed=3)).passes["unet"].dense == 0
        assert session.edit(rectangle(), settings()).passes["unet"] == first.passes["unet"]


def test_a_rejected_edit_under_the_mask_is_computed_anew(pipe: Any) -> None:
    """The store shows what the rejected edit painted; a smaller mask keeps the picture there, so both are computed."""
    part = rectangle() * (np.arange(SIDE) < 34)
    with Session(pipe, picture()) as session:
        first = session.edit(rectangle(), settings())
        smaller = session.edit(part, settings(seed=2))
        active = smaller.region.active(SIDE // 8, SIDE // 8)
        assert (active | ~first.region.active(SIDE // 8, SIDE // 8)).all()
        dense = session.edit(part, settings(seed=2), dense=True)
        assert np.array_equal(pixels(dense)[part == 0], pixels(smaller)[part == 0])


def test_undo_of_an_edit_at_another_place_leaves_a_store_that_is_still_right(pipe: Any) -> None:
    with Session(pipe, picture()) as session:
        session.accept(session.edit(rectangle(), settings()))
        session.accept(session.edit(rectangle(), settings(seed=2)))
        session.accept(session.edit(elsewhere(), settings(seed=3)))
        session.undo()
        session.undo()
        again = session.edit(elsewhere(), settings(seed=5))
        assert again.passes["unet"].dense == 0
        dense = session.edit(elsewhere(), settings(seed=5), dense=True)
        inside = elsewhere() > 0
        error = np.abs(pixels(again).astype(float) - pixels(dense))[inside].mean()
        assert error < 0.5 * np.abs(pixels(picture()).astype(float) - pixels(dense))[inside].mean()


def test_other_settings_or_weights_begin_anew(pipe: Any) -> None:
    with Session(pipe, picture()) as session:
        session.edit(rectangle(), settings())
        assert session.edit(rectangle(), settings(seed=2)).passes["unet"].dense == 0
        assert session.edit(rectangle(), settings(steps=22)).passes["unet"].dense > 0
        assert session.edit(rectangle(), settings(steps=22, scale=5.0)).passes["unet"].dense == 0
        weight = pipe.unet.conv_in.weight
        with torch.no_grad():
            weight.mul_(1.001)
        try:
            assert session.edit(rectangle(), settings(steps=22)).passes["unet"].dense > 0
        finally:
            with torch.no_grad():
                weight.div_(1.001)


def test_mistakes_are_named(pipe: Any) -> None:
    with Session(pipe, picture()) as session:
        for call, message in (
            (session.accept, r"^accept: got no result"),
            (session.retry, r"^retry: nothing is staged"),
            (session.undo, r"^undo: this is"),
            (lambda: session.edit(np.zeros((SIDE, SIDE)), settings()), r"^mask: got an empty one"),
            (lambda: session.edit(np.ones((8, 8)), settings()), r"^mask: got 8 high x 8 wide"),
        ):
            with pytest.raises(InputError, match=message):
                call()
        first = session.edit(rectangle(), settings())
        session.retry(seed=2)
        with pytest.raises(InputError, match=r"^accept: got no result of this session's last edit"):
            session.accept(first)
    with pytest.raises(InputError, match=r"^image is missing"):
        Session(pipe)


# ---- when something goes wrong ---------------------------------------------------------------------------------------


def test_a_cancelled_edit_leaves_the_session_as_it_was(pipe: Any) -> None:
    with Session(pipe, picture()) as session:
        session.edit(rectangle(), settings())
        expected = session.edit(rectangle(), settings(seed=5))
        with pytest.raises(Cancelled):
            session.edit(rectangle(), settings(seed=6), on_step=lambda step: step.number < 3)
        assert same(session.edit(rectangle(), settings(seed=5)), expected)
        with pytest.raises(Cancelled):
            session.edit(elsewhere(), settings(), on_step=lambda step: step.number < 3)
        assert session.edit(rectangle(), settings()).passes["unet"].dense > 0
    with Session(pipe, picture()) as session:
        with pytest.raises(Cancelled):
            session.edit(rectangle(), settings(), on_step=lambda step: step.number < 3)
        assert session.edit(rectangle(), settings()).passes["unet"].dense > 0


def test_without_memory_for_recordings_the_edit_runs_dense(
    pipe: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    with Session(pipe, picture()) as session, monkeypatch.context() as patch:
        patch.setattr(session.store, "put", full)
        result = session.edit(rectangle(), settings())
        assert result.passes["unet"] == sige.passes.Passes(dense=20)
        assert "they are dropped, and the edit runs dense" in caplog.text
        session.accept(result)
        assert session.store.nbytes == 0
        patch.undo()
        assert session.edit(rectangle(), settings()).passes["unet"].dense > 0
        assert session.edit(rectangle(), settings(seed=1)).passes["unet"].dense == 0


@pytest.mark.parametrize("budget", [10, 200_000, 2_000_000])
def test_a_small_budget_makes_edits_slower_and_never_wrong(pipe: Any, budget: int) -> None:
    inside = rectangle() > 0
    with Session(pipe, picture(), budget=budget) as session:
        for seed in range(3):
            result = session.edit(rectangle(), settings(seed=seed))
            assert session.store.nbytes <= budget
            dense = session.edit(rectangle(), settings(seed=seed), dense=True)
            error = np.abs(pixels(result).astype(float) - pixels(dense))[inside].mean()
            assert error < 0.5 * np.abs(pixels(picture()).astype(float) - pixels(dense))[inside].mean()


# ---- folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["pipe", "wide"])
def test_a_session_goes_on_from_its_folder(weights: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    pipe = request.getfixturevalue(weights)
    with Session(pipe, picture()) as memory:
        memory.accept(memory.edit(rectangle(), settings()))
        memory.accept(memory.edit(elsewhere(), settings(seed=2)))
        expected = memory.edit(rectangle(), settings(seed=3))
    folder = tmp_path / "desk"
    with Session(pipe, picture(), folder=folder) as session:
        session.accept(session.edit(rectangle(), settings()))
    with Session(pipe, folder=folder) as session:
        session.accept(session.edit(elsewhere(), settings(seed=2)))
    with Session(pipe, picture(), folder=folder) as session:
        found = session.edit(rectangle(), settings(seed=3))
        assert found.passes == expected.passes
        assert same(found, expected)
        first = session.undo()
    with Session(pipe, folder=folder) as session:
        assert same(session.picture, first)
        assert same(session.undo(), picture())


def test_a_session_that_is_killed_is_the_old_or_the_new_one(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stops at every replacement of a file, which is where a kill can leave a half-written state."""
    folder = tmp_path / "desk"
    with Session(pipe, picture(), folder=folder) as session:
        session.accept(session.edit(rectangle(), settings(steps=4)))
        old = session.picture
    replace_file, writes = os.replace, 0

    class Killed(BaseException):
        pass

    for stop in range(40):
        left = stop

        def counted(*paths: Any) -> None:
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            replace_file(*paths)

        session = Session(pipe, folder=folder)
        assert same(session.picture, old)
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", counted)
            try:
                session.accept(session.edit(elsewhere(), settings(steps=4, seed=2)))
                new = session.picture
                break
            except Killed:
                writes += 1
        session._handle.disable()
    assert writes > 4
    session.close()
    with Session(pipe, folder=folder) as session:
        assert same(session.picture, new)
        assert same(session.undo(), old)
    index = json.loads((folder / "session.json").read_text())
    counts = len(index["recordings"]["recordings"]) + len(index["recordings"]["edits"])
    assert len(list((folder / "recordings").iterdir())) == counts


def test_folders_that_are_none_of_ours_or_damaged_are_refused(pipe: Any, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"^session: .* is not empty and holds no session"):
        Session(pipe, picture(), folder=other)
    folder = tmp_path / "desk"
    with Session(pipe, picture(), folder=folder) as session:
        session.accept(session.edit(rectangle(), settings(steps=4)))
    with pytest.raises(InputError, match=r"^image: the session in .* is of another picture"):
        Session(pipe, Image.new("RGB", (SIDE, SIDE)), folder=folder)
    for file in sorted(folder.rglob("*")):
        if not file.is_file() or file.parent.name == "recordings":
            continue
        content = file.read_bytes()
        for damaged in (b"", content[: len(content) // 2], b"[]"):
            file.write_bytes(damaged)
            with pytest.raises(InputError, match=r"^session: .* cannot be read"):
                Session(pipe, folder=folder)
        file.write_bytes(content)
    with Session(pipe, folder=folder) as session:
        assert session.edit(rectangle(), settings(steps=4, seed=3)).passes["unet"].dense == 0


def test_damaged_recordings_cost_a_new_first_edit(pipe: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "desk"
    with Session(pipe, picture(), folder=folder) as session:
        session.accept(session.edit(rectangle(), settings(steps=4)))
    for file in (folder / "recordings").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    with caplog.at_level(logging.WARNING), Session(pipe, folder=folder) as session:
        assert session.edit(rectangle(), settings(steps=4, seed=1)).passes["unet"].dense == 4
    assert "recordings cannot be read" in caplog.text
