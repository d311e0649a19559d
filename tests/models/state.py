"""The state that enabling and recording must not change: layouts, hooks, forwards, and a recording's tensors."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sige import Recording
from tests.models import devices
from tests.models.tiny import Case, new_case

Strides = dict[str, tuple[int, ...]]


def fresh(case: str) -> Case:
    """A case whose model no other test uses, for tests that may leave it changed."""
    return new_case(case, device=devices.current())


def strides(model: nn.Module) -> Strides:
    return {name: parameter.stride() for name, parameter in model.named_parameters()}


def hooks(model: nn.Module) -> int:
    """The number of hooks of any kind on all modules."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def wrapped(model: nn.Module) -> list[str]:
    """The paths of the modules whose forward is replaced."""
    return [name for name, module in model.named_modules() if "forward" in vars(module)]


def tensors(recording: Recording) -> Iterator[Tensor]:
    for part in recording.components.values():
        yield from part.rows.values()
        yield from part.stats.values()
        if part.output is not None:
            yield part.output


def snapshot(recording: Recording) -> list[Tensor]:
    return [tensor.clone() for tensor in tensors(recording)]


def unchanged(recording: Recording, before: list[Tensor]) -> bool:
    after = list(tensors(recording))
    return len(after) == len(before) > 0 and all(map(torch.equal, after, before))
