"""group_stats and update_group_stats: sums and sums of squares per group, and their exact update."""

from __future__ import annotations

import torch
from torch import Tensor

from sige.errors import OpError
from sige.ops.checks import check_storage_dtype, check_tensor
from sige.ops.registry import IndexRange, register

__all__ = ["group_stats", "update_group_stats"]


def group_stats(
    rows: Tensor,  # [B, M, C]
    groups: int,
) -> Tensor:  # fp64 [B, G, 2]
    """The sum and the sum of squares of each of `groups` groups of channels, over all rows.

    >>> group_stats(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), groups=1).tolist()
    [[[10.0, 30.0]]]
    """
    return torch.ops.sige.group_stats.default(rows, groups)  # type: ignore[no-any-return]


def update_group_stats(
    stats: Tensor,  # fp64 [B, G, 2]
    recorded: Tensor,  # [B, M, C]
    index: Tensor | None,  # int32 [N], or None where M = N
    packed: Tensor,  # [B, N, C]
) -> Tensor:  # fp64 [B, G, 2]
    """`stats` minus the recorded rows `index[n]`, plus the packed rows n that replace them.

    A packed row whose entry is -1 does not count.

    >>> recorded = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    >>> index, packed = torch.tensor([1], dtype=torch.int32), torch.tensor([[[0.0, 5.0]]])
    >>> update_group_stats(group_stats(recorded, 1), recorded, index, packed).tolist()
    [[[8.0, 30.0]]]
    """
    return torch.ops.sige.update_group_stats.default(stats, recorded, index, packed)  # type: ignore[no-any-return]


def _group_stats_fake(rows: Tensor, groups: int) -> Tensor:
    check_rows("group_stats", "rows", rows, groups)
    return rows.new_empty(rows.shape[0], groups, 2, dtype=torch.float64)


def _update_group_stats_fake(stats: Tensor, recorded: Tensor, index: Tensor | None, packed: Tensor) -> Tensor:
    op = "update_group_stats"
    check_tensor(op, "stats", stats, stats, stats.dtype, "[B, G, 2]", (None, None, 2))
    check_rows(op, "packed", packed, stats.shape[1])
    batch, rows, channels = packed.shape
    check_tensor(op, "stats", stats, packed, torch.float64, "[B, G, 2]", (batch, stats.shape[1], 2))
    recorded_rows = rows if index is None else None
    check_tensor(op, "recorded", recorded, packed, packed.dtype, "[B, M, C]", (batch, recorded_rows, channels))
    if index is not None:
        check_tensor(op, "index", index, packed, torch.int32, "[N]", (rows,))
    return torch.empty_like(stats)


def _group_stats_reference(
    rows: Tensor,  # [B, M, C]
    groups: int,
) -> Tensor:  # [B, G, 2]
    split = rows.double().unflatten(2, (groups, -1))  # [B, M, G, C / G]
    return torch.stack([split.sum(dim=(1, 3)), split.square().sum(dim=(1, 3))], dim=2)


def _update_group_stats_reference(
    stats: Tensor,  # [B, G, 2]
    recorded: Tensor,  # [B, M, C]
    index: Tensor | None,  # int [N]
    packed: Tensor,  # [B, N, C]
) -> Tensor:  # [B, G, 2]
    groups = stats.shape[1]
    if index is not None:
        counts = index >= 0
        recorded, packed = recorded[:, index[counts].long()], packed[:, counts]
    return stats - _group_stats_reference(recorded, groups) + _group_stats_reference(packed, groups)


def check_rows(op: str, name: str, rows: Tensor, groups: int) -> None:
    """Refuses rows that are not [B, N, C] with channels that divide into `groups` groups."""
    check_tensor(op, name, rows, rows, rows.dtype, "[B, N, C]", (None, None, None))
    if groups < 1 or rows.shape[2] % groups != 0:
        raise OpError(f"{op}: groups is {groups}, expected a divisor of the {int(rows.shape[2])} channels of {name}")
    check_storage_dtype(op, name, rows)


def _update_range(stats: Tensor, recorded: Tensor, index: Tensor | None, packed: Tensor) -> IndexRange | None:
    return None if index is None else IndexRange("index", index, -1, recorded.shape[1])


register(
    "group_stats(Tensor rows, int groups) -> Tensor",
    reference=_group_stats_reference,
    fake=_group_stats_fake,
)
register(
    "update_group_stats(Tensor stats, Tensor recorded, Tensor? index, Tensor packed) -> Tensor",
    reference=_update_group_stats_reference,
    fake=_update_group_stats_fake,
    index_range=_update_range,
)
