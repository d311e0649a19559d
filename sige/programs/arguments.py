"""The arguments of a component's call as a program sees them: tensors by their path, and what must be as it was."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["Path", "as_tensors", "shape_of", "tensors_of"]

Path = tuple[str | int, ...]  # keys and positions that lead from the arguments to a value


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """The values in nested dicts, lists and tuples, each with its path."""
    if isinstance(value, Mapping):
        for name, one in value.items():
            yield from leaves(one, (*path, name))
    elif isinstance(value, list | tuple):
        for place, one in enumerate(value):
            yield from leaves(one, (*path, place))
    else:
        yield path, value


def as_tensors(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments with a timestep that is a tensor on the device of the sample.

    A number would become part of the program, and a CUDA graph cannot copy from the host.
    """
    step, device = arguments.get("timestep"), arguments["sample"].device
    if step is None:
        return arguments
    if isinstance(step, Tensor):
        return arguments if step.device == device else {**arguments, "timestep": step.to(device)}
    dtype = torch.float64 if isinstance(step, float) else torch.int64  # what diffusers takes for a number
    return {**arguments, "timestep": torch.tensor([step], dtype=dtype, device=device)}


def tensors_of(arguments: dict[str, Any]) -> dict[Path, Tensor]:
    """The tensors among the arguments."""
    return {path: value for path, value in leaves(arguments) if isinstance(value, Tensor)}


def shape_of(arguments: dict[str, Any]) -> Hashable:
    """What two calls must have in common to run the same program: shapes of tensors, and all other values."""
    return tuple((path, _shape(value)) for path, value in leaves(arguments))


def _shape(value: Any) -> Hashable:
    if isinstance(value, Tensor):
        return tuple(value.shape), value.stride(), value.dtype, value.device
    return value if isinstance(value, bool | int | float | str | None) else repr(value)
