"""The batch of one step. Its random numbers depend on (seed, step, place in the global batch) alone.

So a training that was killed goes on exactly where it was, and two processes with half of the batch each see together
what one process with the whole batch sees.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

__all__ = ["Batch", "Example", "Sizes", "Source", "make_batch", "order", "sample_rng"]

Sizes = tuple[int, int, int, int, int, int]  # original height, width; crop top, left; target height, width


@dataclass(frozen=True)
class Example:
    """A picture that is ready for training: its scaled latents and its caption."""

    latents: Tensor  # [C, h, w]
    caption: str
    sizes: Sizes
    mask: Tensor | None = None  # [1, h, w]; 1 is painted anew
    masked: Tensor | None = None  # [C, h, w]: latents of the picture with the masked part left out
    noise: Tensor | None = None  # [C, h, w]: the noise that the latents were made from; None: any will do


class Source(Protocol):
    """A source of examples."""

    def __len__(self) -> int:
        """The number of examples."""

    def example(self, index: int, rng: np.random.Generator) -> Example:
        """The example with that number; `rng` decides what varies, such as the words of a caption."""


@dataclass(frozen=True)
class Batch:
    """Stacked examples with their noise."""

    latents: Tensor  # [B, C, h, w]
    noise: Tensor  # [B, C, h, w]
    timesteps: Tensor  # int64 [B]
    sizes: Tensor  # [B, 6]
    dropped: Tensor  # bool [B]: the caption is left out, so that guidance works
    captions: list[str]
    mask: Tensor | None = None  # [B, 1, h, w]
    masked: Tensor | None = None  # [B, C, h, w]

    def to(self, device: torch.device | str) -> Batch:
        """The batch on another device."""
        moved: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            moved[item.name] = value.to(device) if isinstance(value, Tensor) else value
        return Batch(**moved)


def sample_rng(seed: int, step: int, place: int) -> np.random.Generator:
    """The generator of the random numbers for one place in the global batch of one step."""
    return np.random.default_rng([seed, step, place])


def order(seed: int, count: int, step: int, batch: int) -> list[int]:
    """The numbers of the examples in the step's global batch. An epoch has each example once, in its own order.

    >>> sorted(order(0, 4, 0, 2) + order(0, 4, 1, 2))
    [0, 1, 2, 3]
    """
    places = range(step * batch, (step + 1) * batch)
    epochs = {place // count for place in places}
    shuffled = {epoch: np.random.default_rng([seed, epoch]).permutation(count) for epoch in epochs}
    return [int(shuffled[place // count][place % count]) for place in places]


def make_batch(
    source: Source,
    *,
    seed: int,
    step: int,
    batch: int,
    drop: float,
    timesteps: tuple[int, int],  # the first, and the one after the last
    share: tuple[int, int] = (0, 1),
) -> Batch:
    """The part of the step's global batch that belongs to process `share[0]` of `share[1]`."""
    rank, world = share
    indices = order(seed, len(source), step, batch)
    places = range(rank * batch // world, (rank + 1) * batch // world)
    rngs = [sample_rng(seed, step, place) for place in places]
    examples = [source.example(indices[place], rng) for place, rng in zip(places, rngs, strict=True)]
    return Batch(
        latents=torch.stack([example.latents for example in examples]),
        noise=torch.stack([_noise(example, rng) for example, rng in zip(examples, rngs, strict=True)]),
        timesteps=torch.tensor([int(rng.integers(*timesteps)) for rng in rngs]),
        sizes=torch.tensor([example.sizes for example in examples], dtype=torch.float32),
        dropped=torch.tensor([bool(rng.random() < drop) for rng in rngs]),
        captions=[example.caption for example in examples],
        mask=_stacked(example.mask for example in examples),
        masked=_stacked(example.masked for example in examples),
    )


def _noise(example: Example, rng: np.random.Generator) -> Tensor:  # [C, h, w]
    if example.noise is not None:
        return example.noise
    return torch.from_numpy(rng.standard_normal(example.latents.shape, dtype=np.float32))


def _stacked(tensors: Iterator[Tensor | None]) -> Tensor | None:
    present: Sequence[Tensor] = [tensor for tensor in tensors if tensor is not None]
    return torch.stack(list(present)) if present else None
