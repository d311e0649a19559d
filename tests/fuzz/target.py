"""A target of the harness."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.mutate import Rng

__all__ = ["Target"]


@dataclass(frozen=True)
class Target:
    """What is fuzzed. `run` works in a folder with the corpus, and puts right what it changes there."""

    name: str
    weight: int  # how often it has its turn
    make: Callable[[Path, Rng], bytes]  # from the corpus
    run: Callable[[bytes], object]  # in the corpus
