"""Argument checks of the ops in Python, with the messages of `csrc/common/op.h`.

The native ops check for themselves; these run for the reference and for fakes (`torch.compile`, the meta device).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sige.errors import OpError

__all__ = [
    "MOST_TERMS",
    "check_as_many",
    "check_index",
    "check_storage_dtype",
    "check_tensor",
    "check_terms",
    "check_weights",
]

MOST_TERMS = 8  # of a blend; csrc/common/types.h holds the same number

STORAGE_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _shape(sizes: tuple[int | None, ...]) -> str:
    return "[" + ", ".join("any" if size is None else str(int(size)) for size in sizes) + "]"


def check_tensor(
    op: str,
    name: str,
    tensor: Tensor,
    like: Tensor,
    dtype: torch.dtype,
    letters: str,
    shape: tuple[int | None, ...],
    contiguous: bool = True,
) -> None:
    """Refuses a tensor of another shape (None takes any size), dtype, device than `like`'s, or not contiguous."""
    right = tensor.dim() == len(shape)
    right = right and all(want is None or got == want for got, want in zip(tensor.shape, shape, strict=True))
    if not right:
        raise OpError(f"{op}: {name} has shape {_shape(tensor.shape)}, expected {letters} = {_shape(shape)}")
    if tensor.dtype != dtype:
        raise OpError(f"{op}: {name} has dtype {_name(tensor.dtype)}, expected {_name(dtype)}")
    if tensor.device != like.device:
        raise OpError(f"{op}: {name} is on {tensor.device}, expected {like.device} like the other tensors")
    if contiguous and not tensor.is_contiguous():
        raise OpError(
            f"{op}: {name} has strides {_shape(tensor.stride())} for shape {_shape(tensor.shape)}, "
            "expected a contiguous tensor (call .contiguous())"
        )


def check_storage_dtype(op: str, name: str, tensor: Tensor) -> None:
    """Refuses a dtype that the kernels do not read: they read float32, float16 and bfloat16."""
    if tensor.dtype not in STORAGE_DTYPES:
        raise OpError(f"{op}: {name} has dtype {_name(tensor.dtype)}, expected float32, float16 or bfloat16")


def check_terms(op: str, name: str, terms: Sequence[Tensor]) -> None:
    """Refuses a list of terms of a blend that has none, or more than `MOST_TERMS`."""
    if not 1 <= len(terms) <= MOST_TERMS:
        raise OpError(f"{op}: {name} has {len(terms)} tensors, expected 1 to {MOST_TERMS}")


def check_as_many(op: str, name: str, got: Sequence[object], first: str, terms: Sequence[Tensor]) -> None:
    """Refuses a list that has another number of entries than `terms`, the list called `first`."""
    if len(got) != len(terms):
        raise OpError(f"{op}: {name} has {len(got)} entries, expected {len(terms)} like {first}")


def check_weights(op: str, name: str, weights: Tensor, terms: Sequence[Tensor]) -> None:
    """Refuses weights of a blend that are not fp64 [K] on the device of its K terms."""
    check_tensor(op, name, weights, terms[0], torch.float64, "[K]", (len(terms),))


def check_index(op: str, name: str, index: Tensor, low: int, high: int) -> None:
    """Refuses an index with an entry outside [low, high). It reads the values, so fakes do not call it."""
    invalid = ((index < low) | (index >= high)).flatten()
    if invalid.any():
        slot = int(invalid.to(torch.uint8).argmax())
        raise OpError(
            f"{op}: {name} has an entry out of range at flat position {slot}, expected every entry in [{low}, {high})"
        )
