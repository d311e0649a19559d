"""time_table: what every residual block adds for the time, by all their layers in one call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sige.errors import OpError
from sige.ops.checks import check_as_many, check_storage_dtype, check_tensor
from sige.ops.registry import register

__all__ = ["MOST_TABLES", "time_table"]

MOST_TABLES = 64  # layers of one call; csrc/time_table.h holds the same number


def time_table(
    time: Tensor,  # [B, E]
    weights: Sequence[Tensor],  # [C_k, E] each, one to MOST_TABLES of them
    biases: Sequence[Tensor],  # [C_k] each
    added: Sequence[Tensor],  # [C_k] each
) -> Tensor:  # [B, sum of C_k]
    """The results of the linear layers plus what is added, side by side. The weights are read in place, each once.

    >>> weights, biases = [torch.ones(1, 2), torch.eye(2)], [torch.zeros(1), torch.tensor([5.0, 5.0])]
    >>> time_table(torch.tensor([[3.0, 4.0]]), weights, biases, [torch.ones(1), torch.zeros(2)]).tolist()
    [[8.0, 8.0, 9.0]]
    """
    return torch.ops.sige.time_table.default(time, weights, biases, added)  # type: ignore[no-any-return]


def _time_table_fake(
    time: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], added: Sequence[Tensor]
) -> Tensor:
    op = "time_table"
    check_tensor(op, "time", time, time, time.dtype, "[B, E]", (None, None))
    if not 1 <= len(weights) <= MOST_TABLES:
        raise OpError(f"{op}: weights has {len(weights)} tensors, expected 1 to {MOST_TABLES}")
    check_as_many(op, "biases", biases, "weights", weights)
    check_as_many(op, "added", added, "weights", weights)
    for k, (weight, bias, more) in enumerate(zip(weights, biases, added, strict=True)):
        check_tensor(op, f"weights[{k}]", weight, time, time.dtype, "[C, E]", (None, time.shape[1]))
        check_tensor(op, f"biases[{k}]", bias, time, time.dtype, "[C]", (weight.shape[0],))
        check_tensor(op, f"added[{k}]", more, time, time.dtype, "[C]", (weight.shape[0],))
    check_storage_dtype(op, "time", time)
    return time.new_empty(time.shape[0], sum(weight.shape[0] for weight in weights))


def _time_table_reference(
    time: Tensor,  # [B, E]
    weights: Sequence[Tensor],  # [C_k, E] each
    biases: Sequence[Tensor],  # [C_k] each
    added: Sequence[Tensor],  # [C_k] each
) -> Tensor:  # [B, sum of C_k]
    layers = zip(weights, biases, added, strict=True)
    return torch.cat([F.linear(time, weight, bias) + more for weight, bias, more in layers], dim=1)


register(
    "time_table(Tensor time, Tensor[] weights, Tensor[] biases, Tensor[] added) -> Tensor",
    reference=_time_table_reference,
    fake=_time_table_fake,
)
