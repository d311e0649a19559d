"""The check of prompts: right on the scenes' own drawings, chance on others' captions, right on hard colours."""

from __future__ import annotations

import doctest
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import prompt_check, prompts
from benchmarks.prompt_check import ASKED, Seen, connected, find, look, matches
from sdxl.scenes.draw import draw, thing_mask
from sdxl.scenes.numbered import HELD_OUT, scene_at
from sdxl.scenes.scene import COLOURS, GROUNDS, SKIES, THINGS, Scene

Judged = list[tuple[Scene, Seen | None]]


def noisy(picture: Image.Image, spread: float, seed: int = 0) -> Image.Image:
    """The picture with noise, about as much as a small VAE leaves."""
    values = np.asarray(picture) + np.random.default_rng(seed).normal(0, spread, (*picture.size[::-1], 3))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def judged() -> Judged:
    """Held-out scenes, each with what the check sees in its drawing."""
    scenes = [scene_at(HELD_OUT + number) for number in range(40)]
    return [(scene, look(draw(scene), scene.sky, scene.ground)) for scene in scenes]


def shares(pairs: Judged) -> dict[str, float]:
    right = [matches(seen, scene) for scene, seen in pairs]
    return {name: float(np.mean([each[name] for each in right])) for name in ASKED}


def test_drawings_are_what_they_are(judged: Judged) -> None:
    assert shares(judged) == {"colour": 1, "place": 1, "thing": pytest.approx(1, abs=0.03)}
    assert np.mean([seen.fit for _, seen in judged if seen]) > 0.9


def test_captions_of_other_scenes_are_chance(judged: Judged) -> None:
    others = [(scene, seen) for i, (scene, _) in enumerate(judged) for j, (_, seen) in enumerate(judged) if i != j]
    chance = {"colour": 1 / len(COLOURS), "place": 1 / 3, "thing": 1 / len(THINGS)}
    assert shares(others) == pytest.approx(chance, abs=0.04)


def test_noise_changes_little() -> None:
    scenes = [scene_at(HELD_OUT + 500 + number) for number in range(30)]
    pairs = [(scene, look(noisy(draw(scene), 4, scene.seed), scene.sky, scene.ground)) for scene in scenes]
    assert min(shares(pairs).values()) >= 0.9


HARD = [("white", "snow", "grey"), ("black", "grass", "night"), ("blue", "water", "blue"), ("white", "snow", "night"),
        ("orange", "sand", "evening"), ("purple", "grass", "evening"), ("pink", "sand", "evening")]  # fmt: skip


@pytest.mark.parametrize(("colour", "ground", "sky"), HARD)
def test_colours_like_the_backdrop_are_seen(colour: str, ground: str, sky: str) -> None:
    for number, thing in enumerate(THINGS):
        base = next(scene for scene in map(scene_at, range(number * 50, 10**6)) if scene.thing == thing)
        scene = replace(base, colour=colour, ground=ground, sky=sky, hills=True, trees=True, light=True)
        seen = look(draw(scene), sky, ground)
        assert seen is not None and (seen.colour, seen.place, seen.thing) == (colour, scene.place, thing)


def test_what_is_found_is_the_thing() -> None:
    for number in range(12):
        scene = scene_at(HELD_OUT + 900 + number)
        found, true = find(draw(scene), scene.sky, scene.ground), thing_mask(scene)
        assert found is not None and (found & true).sum() / (found | true).sum() > 0.8


def test_another_thing_is_seen_as_another() -> None:
    """The picture decides, not the prompt: every colour and every thing at one place, on every ground."""
    scene = scene_at(HELD_OUT + 7)
    for thing, colour, ground in zip(THINGS * 2, [*COLOURS, *list(COLOURS)[:4]], list(GROUNDS) * 3, strict=True):
        y = 0.28 if thing == "balloon" else 0.75
        other = replace(scene, thing=thing, colour=colour, ground=ground, horizon=0.5, y=y)
        seen = look(draw(other), other.sky, ground)
        assert seen is not None and (seen.thing, seen.colour) == (thing, colour)


def test_a_picture_without_a_thing_has_none() -> None:
    for sky in SKIES:
        rows = np.linspace(SKIES[sky][0], GROUNDS["grass"][1], 256)[:, None].repeat(256, axis=1)
        assert look(Image.fromarray(rows.astype(np.uint8)), sky, "grass") is None
    assert matches(None, scene_at(0)) == dict.fromkeys(ASKED, False)


def test_parts_are_those_of_a_slower_way() -> None:
    mask = np.random.default_rng(1).random((24, 31)) < 0.55
    parts, slow, number = connected(mask), np.zeros(mask.shape, dtype=int), 0
    for start in np.argwhere(mask):
        if slow[tuple(start)]:
            continue
        number, waiting = number + 1, [tuple(start)]
        while waiting:
            y, x = waiting.pop()
            if 0 <= y < 24 and 0 <= x < 31 and mask[y, x] and not slow[y, x]:
                slow[y, x] = number
                waiting += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
    pairs = set(zip(parts.ravel().tolist(), slow.ravel().tolist(), strict=True))
    assert len(pairs) == number + 1 == len({part for part, _ in pairs})


def test_examples() -> None:
    found = doctest.testmod(prompt_check)
    assert found.attempted and not found.failed


# ---- the command -----------------------------------------------------------------------------------------------------


def test_drawings_alone_need_no_model(no_embedded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts.main(["--drawings", "--count", "4", "--json", str(tmp_path / "out.json")])
    content = json.loads((tmp_path / "out.json").read_text())
    assert [row["pictures"] for row in content["rows"]] == ["drawings", "drawings, other captions"]
    assert content["rows"][0]["all three"] == 1 > content["rows"][1]["all three"]
    assert "drawings, other captions" in capsys.readouterr().out


def test_a_model_of_random_weights_is_no_good(stand_in: Path, tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("out.json", "grid.png")}
    words = ["--weights", str(stand_in / "base.safetensors"), "--count", "3", "--steps", "1"]
    prompts.main([*words, "--json", str(files["out.json"]), "--grid", str(files["grid.png"])])
    content = json.loads(files["out.json"].read_text())
    names = ["drawings", "drawings, other captions", "drawings through the VAE", "model"]
    assert [row["pictures"] for row in content["rows"]] == names
    assert content["rows"][0]["all three"] == 1 > content["rows"][-1]["all three"]
    assert [sample["caption"] for sample in content["samples"]] == [text for _, text in prompts.held_out(3)]
    assert Image.open(files["grid.png"]).width == 3 * 320 + 4 * 16
