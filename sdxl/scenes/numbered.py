"""Scenes by number: the first ones to train on, those from `HELD_OUT` on to measure and to show."""

from __future__ import annotations

import numpy as np

from sdxl.scenes.scene import Scene, random_scene

__all__ = ["HELD_OUT", "scene_at"]

HELD_OUT = 1_000_000  # scenes from this number on are never trained on


def scene_at(number: int) -> Scene:
    """The scene of a number; below HELD_OUT for training, from there on to measure."""
    return random_scene(np.random.default_rng([7, number]))
