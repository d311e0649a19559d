"""Scenes: the caption describes the drawing, and the same seed gives the same picture."""

from __future__ import annotations

import doctest
from dataclasses import replace

import numpy as np
import pytest

import sdxl.scenes.draw
import sdxl.scenes.scene
from sdxl.scenes.draw import draw, thing_mask
from sdxl.scenes.scene import COLOURS, GROUNDS, PLACES, SKIES, THINGS, Scene, caption, random_scene


def scenes(count: int) -> list[Scene]:
    rng = np.random.default_rng(3)
    return [random_scene(rng) for _ in range(count)]


def test_the_same_seed_gives_the_same_picture_and_another_seed_another() -> None:
    first, other = scenes(2)
    assert draw(first).tobytes() == draw(first).tobytes() != draw(other).tobytes()


def test_every_word_comes_up_about_equally_often() -> None:
    many = scenes(2000)
    for name, known in (
        ("thing", THINGS),
        ("place", PLACES),
        ("colour", COLOURS),
        ("sky", SKIES),
        ("ground", GROUNDS),
    ):
        counts = [sum(getattr(scene, name) == word for scene in many) for word in known]
        assert min(counts) > 0.7 * len(many) / len(known)


@pytest.mark.parametrize("thing", THINGS)
@pytest.mark.parametrize("place", PLACES)
def test_the_thing_is_where_and_what_the_scene_says(thing: str, place: str) -> None:
    """The thing is inside the picture, in the scene's third of it, and mostly in its colour."""
    for seed in range(6):
        scene = next(
            scene
            for scene in (random_scene(np.random.default_rng(100 * seed + i)) for i in range(400))
            if scene.thing == thing and scene.place == place
        )
        mask, picture = thing_mask(scene), np.asarray(draw(scene)).astype(int)
        assert 0.01 < mask.mean() < 0.15
        assert not mask[0].any() and not mask[-1].any() and not mask[:, 0].any() and not mask[:, -1].any()
        assert int(3 * np.argwhere(mask)[:, 1].mean() / mask.shape[1]) == PLACES.index(place)
        near = np.abs(picture[mask] - COLOURS[scene.colour]).max(axis=1) <= 4
        assert near.mean() > 0.6


def test_nothing_but_the_thing_is_under_its_mask() -> None:
    """Another colour of the thing changes the picture only inside the mask and one smoothed pixel around it."""
    for scene in scenes(20):
        other = replace(scene, colour=next(colour for colour in COLOURS if colour != scene.colour))
        changed = (np.asarray(draw(scene)) != np.asarray(draw(other))).any(axis=2)
        mask = thing_mask(scene)
        near = mask.copy()
        near[1:] |= mask[:-1]
        near[:-1] |= mask[1:]
        near[:, 1:] |= near[:, :-1].copy()
        near[:, :-1] |= near[:, 1:].copy()
        assert not changed[~near].any() and changed[mask].mean() > 0.9


def test_captions_say_what_is_there_and_nothing_that_is_not() -> None:
    rng = np.random.default_rng(0)
    for scene in scenes(300):
        text = caption(scene, rng)
        assert f"{'an' if scene.colour == 'orange' else 'a'} {scene.colour} {scene.thing} " in text
        assert scene.hills or "hills" not in text
        assert scene.trees or "trees" not in text
        assert scene.light or ("sun" not in text.replace("sunset", "") and "moon" not in text)
        assert all(other not in text.split() for other in THINGS if other != scene.thing)


def test_examples() -> None:
    for module in (sdxl.scenes.scene, sdxl.scenes.draw):
        found = doctest.testmod(module)
        assert found.attempted and not found.failed
