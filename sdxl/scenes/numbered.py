"""Scenes by number: training uses those below `HELD_OUT`, benchmarks and the demo those from there on."""

from __future__ import annotations

import numpy as np

from sdxl.scenes.scene import Scene, random_scene

__all__ = ["HELD_OUT", "scene_at"]

HELD_OUT = 1_000_000  # scenes from this number on are never trained on


def scene_at(number: int) -> Scene:
    """The scene of a number: for training below HELD_OUT, for measurements from there on."""
    return random_scene(np.random.default_rng([7, number]))
