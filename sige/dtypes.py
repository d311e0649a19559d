"""The dtypes that models are computed in, by the names that flags give them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["DTYPE_NAMES", "named_dtype"]

DTYPE_NAMES = ("fp32", "fp16", "bf16")


def named_dtype(name: str) -> torch.dtype:
    """The dtype of a flag's name.

    >>> named_dtype("bf16")
    torch.bfloat16
    """
    import torch  # takes a second; the names alone do not need it

    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[name]
