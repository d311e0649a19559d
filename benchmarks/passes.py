"""Passes of one component, dense and packed: what the benchmarks of whole models share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

import sige
from sige.profiling import Subject

__all__ = ["FORECASTS", "call", "centred", "edited", "packed", "recorded", "tensor_of"]

FORECASTS = {1: (1.0,), 2: (2.0, -1.0), 3: (3.0, -3.0, 1.0)}  # weights by the number of recordings


def centred(ratio: float, size: tuple[int, int]) -> np.ndarray:  # bool [H, W]
    """The mask of a rectangle in the middle that covers this share of the picture."""
    mask = np.zeros(size, dtype=bool)
    h, w = (max(round(side * ratio**0.5), 1) for side in size)
    top, left = (size[0] - h) // 2, (size[1] - w) // 2
    mask[top : top + h, left : left + w] = True
    return mask


def edited(subject: Subject, mask: np.ndarray) -> Tensor:  # [B, C, h, w]
    """The sample with new values where the mask touches it."""
    active = torch.tensor(sige.Region.from_mask(mask, dilation=0).active(*subject.sample.shape[2:]))
    torch.manual_seed(1)
    return torch.where(active.to(subject.sample.device), torch.randn_like(subject.sample), subject.sample)


def tensor_of(result: Any) -> Tensor:
    """The tensor that a model returned, alone or as the first of its results."""
    return result if isinstance(result, Tensor) else result[0]


def call(subject: Subject, sample: Tensor) -> Tensor:
    return tensor_of(subject.module(sample, **subject.arguments))


@contextmanager
def recorded(subject: Subject) -> Iterator[sige.Handle]:
    """Enables the subject and records its own sample; yields the handle."""
    with sige.enable(subject.target) as handle:
        with handle.record():
            call(subject, subject.sample)
        yield handle


def packed(
    handle: sige.Handle, subject: Subject, mask: np.ndarray, dilation: int, **options: Any
) -> Callable[[], Tensor]:
    """A function that makes one packed pass. Its first call computes what is needed once per prompt or region."""
    region, sample = sige.Region.from_mask(mask, dilation=dilation), edited(subject, mask)

    def run() -> Tensor:
        with handle.edit(region, **options):
            return call(subject, sample)

    return run
