"""Pipes: the pipelines of one worker, by task, each loaded when the first edit needs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sige

__all__ = ["PIPELINE_OF", "Pipes"]

PIPELINE_OF = {"inpainting": "inpainting", "sdedit": "sdedit", "img2img": "sdedit"}  # task -> the pipeline that runs it


class Pipes:
    """`load` makes the pipeline of a task. One thread uses them."""

    def __init__(self, load: Callable[[str], Any]) -> None:
        self._load = load
        self._pipes: dict[str, Any] = {}

    def of(self, task: str) -> Any:
        """The pipeline of a task, enabled."""
        name = PIPELINE_OF[task]
        if name not in self._pipes:
            self._pipes[name] = self._load(name)
            sige.enable(self._pipes[name])  # once: every edit would walk the models again
        return self._pipes[name]
