"""The average of the weights over the last steps; it paints better than the weights themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["Average"]


class Average:
    """An exponential average of a module's parameters, with a smaller decay in the first steps.

    >>> layer = nn.Linear(1, 1, bias=False)
    >>> average = Average(layer, decay=0.5)
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = module
        self.decay = decay
        self.values = {name: value.detach().clone().float() for name, value in self._learning()}

    def to(self, device: torch.device | str) -> Average:
        """Moves the averages to this device, where the module is."""
        self.values = {name: value.to(device) for name, value in self.values.items()}
        return self

    def _learning(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, value) for name, value in self.module.named_parameters() if value.requires_grad)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Adds the parameters to the average, after the optimizer's step number `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in self._learning():
            self.values[name].lerp_(value.float(), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Gives the module the averaged weights inside the block, and its own after it."""
        own = {name: value.detach().clone() for name, value in self._learning()}
        self._set(self.values)
        try:
            yield
        finally:
            self._set(own)

    def install(self) -> None:
        """Gives the module the averaged weights for good."""
        self._set(self.values)

    @torch.no_grad()
    def _set(self, values: dict[str, Tensor]) -> None:
        for name, value in self._learning():
            value.copy_(values[name])
