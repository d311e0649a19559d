"""`run.py --session`: edit after edit of one picture from the command line, and the mistakes that it names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdxl.commands.main import main
from sdxl.pictures.png import read_settings

SIGE = ["--run_type", "sige", "--ddim_steps", "4", "--scale", "3", "--prompt", "a horse"]
SESSION = [*SIGE, "--session", "desk", "--mask_path", "mask.npy"]
FIRST = [*SESSION, "--init_img", "before.png"]


@pytest.fixture(autouse=True)
def here(project_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The project's files in a folder of the test's own."""
    for path in project_folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)


def run(words: list[str], out: str, seed: int = 5) -> np.ndarray:  # [H, W, 3]
    assert main([*words, "--seed", str(seed), "--output_path", out]) == 0
    with Image.open(out) as image:
        return np.asarray(image.convert("RGB"))


def test_edits_follow_each_other_and_the_last_is_undone(capsys: pytest.CaptureFixture[str]) -> None:
    first = run(FIRST, "a.png")
    again = run([*SESSION, "--undo"], "b.png", seed=6)
    assert "2 half dense, 2 packed" in capsys.readouterr().out
    assert not np.array_equal(first, again)
    with Image.open("before.png") as image:
        before = np.asarray(image.convert("RGB"))
    mask = np.load("mask.npy") > 0
    for picture in (first, again):
        assert np.array_equal(picture[~mask], before[~mask])
    third = run([*SESSION, "--init_img", "b.png"], "c.png", seed=7)
    assert np.array_equal(third[~mask], before[~mask])
    assert np.array_equal(run([*SESSION, "--undo"], "d.png", seed=7), third)


def test_the_first_picture_is_that_of_a_command_without_a_session() -> None:
    alone = [*SIGE, "--init_img", "before.png", "--mask_path", "mask.npy", "--dense_steps", "2"]
    assert np.array_equal(run([*FIRST, "--dense_steps", "2"], "a.png"), run(alone, "b.png"))
    assert "session" not in read_settings("a.png")


def test_an_empty_mask_changes_nothing() -> None:
    run(FIRST, "a.png")
    np.save("none.npy", np.zeros(np.load("mask.npy").shape))
    words = ["none.npy" if word == "mask.npy" else word for word in SESSION]
    with Image.open("a.png") as image:
        assert np.array_equal(run(words, "b.png"), np.asarray(image))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (SESSION, "--init_img is missing: a new session begins with a picture"),
        ([*FIRST, "--undo"], "--undo: there is no session in desk yet"),
        ([*FIRST, "--policy", "lockstep"], "--policy lockstep does not go with --session"),
        ([*FIRST, "--refined"], "--refined does not go with --session"),
        ([*FIRST, "--dilation", "1"], "--dilation does not go with --session"),
        ([*FIRST, "--budget", "much"], "--budget: got 'much', expected a number of bytes"),
        ([*FIRST, "--run_type", "original"], "--session is for sparse inpainting"),
        ([*SIGE, "--undo", "--init_img", "before.png", "--mask_path", "mask.npy"], "--undo has no effect without"),
        ([*FIRST, "--session", "configs"], "--session: configs is not empty and holds no session"),
    ],
)
def test_mistakes_cost_a_sentence(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--output_path", "out.png"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error and error.startswith("error: ")
    assert not Path("out.png").exists()


def test_mistakes_about_a_session_that_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    run(FIRST, "a.png")
    for words, message in (
        ([*SESSION, "--init_img", "other.png"], "--init_img: the session in desk is of another picture"),
        ([*SESSION, "--H", "64"], "--H and --W: got one beside a session"),
    ):
        assert main([*words, "--output_path", "out.png"]) == 2
        assert message in capsys.readouterr().err
    run([*SESSION, "--undo"], "b.png")
    (Path("desk") / "session.json").write_text("{")
    assert main([*SESSION, "--output_path", "out.png"]) == 2
    assert "--session: desk cannot be read" in capsys.readouterr().err


def test_masks_are_shaped_and_prompts_weighed_in_sessions_too() -> None:
    plain = run(FIRST, "a.png")
    with Image.open("before.png") as image:
        before = np.asarray(image.convert("RGB"))
    shaped = [
        "--grow",
        "4",
        "--mask_blur",
        "3",
        "--prompt",
        "a (white:1.4) horse on the grass, " * 4,
        "--clip_skip",
        "1",
    ]
    words = [*FIRST, "--session", "other", *shaped]
    made = run(words, "b.png")
    grown = np.zeros(before.shape[:2], dtype=bool)
    grown[12:44, 20:64] = True  # mask.npy is white from 16 to 40 and from 24 to 60
    assert np.array_equal(made[~grown], before[~grown])
    ring = grown & ~(np.load("mask.npy") > 0)
    assert (made != before)[ring].any() and not np.array_equal(made, plain)
    assert read_settings("b.png")["grow"] == 4
