"""Bounds for what a config may ask for: real models stay far below them, and a damaged one would build for minutes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from sdxl.errors import CheckpointError

__all__ = ["check_bounds"]

MOST = 1_000_000  # of any number: the largest in a real config is a vocabulary, 49,408
MOST_DEPTH = 10
MOST_LEVELS = 8  # SD 1.5 has 4
MOST_LAYERS = 64  # of one count; the second text encoder has 32
MOST_TRANSFORMERS = 200  # levels x layers x transformers: SDXL has 3 x 2 x 10
LEVELS = ("block_out_channels", "down_block_types", "up_block_types")
TRANSFORMERS = ("transformer_layers_per_block", "reverse_transformer_layers_per_block")
NUMBERS = ("scaling_factor", "shift_factor", "beta_start", "beta_end", "num_train_timesteps")


def check_bounds(part: str, shape: Mapping[str, Any], where: str) -> None:
    """Refuses a config that is no plausible one of the part; `where` names it in the error.

    >>> check_bounds("unet", {"layers_per_block": 10**6}, "config.json")
    Traceback (most recent call last):
    sdxl.errors.CheckpointError: config.json: layers_per_block of the unet is 1000000, expected at most 64
    """
    for name, value in shape.items():
        most = MOST_LAYERS if "layers" in name else MOST
        for number in _numbers(value):
            if not abs(number) <= most:
                raise CheckpointError(f"{where}: {name} of the {part} is {_short(number)}, expected at most {most}")
        if name in NUMBERS and value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise CheckpointError(f"{where}: {name} of the {part} is no number, expected one")
    levels = max((_length(shape.get(name)) for name in LEVELS), default=0)
    if levels > MOST_LEVELS:
        raise CheckpointError(f"{where}: the {part} has {levels} levels, expected at most {MOST_LEVELS}")
    transformers = max(_largest(shape.get(name)) for name in TRANSFORMERS)
    if max(levels, 1) * _largest(shape.get("layers_per_block")) * transformers > MOST_TRANSFORMERS:
        raise CheckpointError(f"{where}: the {part} has more than {MOST_TRANSFORMERS} transformers, expected fewer")


def _numbers(value: Any, depth: int = 0) -> Iterator[int | float]:
    """The numbers in a value, at any depth; for what is nested deeper than any config, infinity, which is too many."""
    if depth > MOST_DEPTH:
        yield math.inf
    elif isinstance(value, (int, float)):
        yield value
    elif isinstance(value, (list, tuple, Mapping)):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _numbers(each, depth + 1)


def _length(value: Any) -> int:
    return len(value) if isinstance(value, (list, tuple)) else 0


def _largest(value: Any) -> int:
    """The largest number of layers that a setting names; 1 where it is left out."""
    return max((int(number) for number in _numbers(value)), default=1)


def _short(number: int | float) -> str:
    return str(number) if abs(number) < 10**20 else "a number of many digits"
