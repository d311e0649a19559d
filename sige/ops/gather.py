"""gather: packed rows + recorded rows + gather map → the matrix that a sparse convolution multiplies."""

from __future__ import annotations

import torch
from torch import Tensor

from sige.errors import OpError
from sige.ops.activation import Activation, activate, activation_code, check_activation
from sige.ops.checks import check_storage_dtype, check_tensor
from sige.ops.registry import IndexRange, register

__all__ = ["gather"]


def gather(
    packed: Tensor,  # [B, N, C]
    recorded: Tensor,  # [B, M, C]
    index: Tensor,  # int32 [N_out, T]
    scale: Tensor | None = None,  # fp32 [B, C]
    shift: Tensor | None = None,  # fp32 [B, C]
    activation: Activation = "none",
) -> Tensor:  # [B, N_out, T * C]
    """The rows that `index` names, with scale, shift and activation applied on the way.

    An entry v < 0 is a zero row (zero *after* the activation), v < N is packed row v, v >= N is recorded row v - N.

    >>> packed, recorded = torch.ones(1, 2, 4), torch.full((1, 3, 4), 5.0)
    >>> index = torch.tensor([[0, 2, -1]], dtype=torch.int32)
    >>> gather(packed, recorded, index)[0, 0, ::4].tolist()
    [1.0, 5.0, 0.0]
    """
    code = activation_code(activation)
    return torch.ops.sige.gather.default(packed, recorded, index, scale, shift, code)  # type: ignore[no-any-return]


def _gather_fake(
    packed: Tensor,
    recorded: Tensor,
    index: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    activation: int,
) -> Tensor:
    check_gather("gather", packed, recorded, index, scale, shift, activation)
    return packed.new_empty(packed.shape[0], index.shape[0], index.shape[1] * packed.shape[2])


def _gather_reference(
    packed: Tensor,  # [B, N, C]
    recorded: Tensor,  # [B, M, C]
    index: Tensor,  # int [N_out, T]
    scale: Tensor | None,  # [B, C]
    shift: Tensor | None,  # [B, C]
    activation: int,
) -> Tensor:  # [B, N_out, T * C]
    rows = torch.cat([packed, recorded], dim=1)  # [B, N + M, C]
    if scale is not None and shift is not None:
        rows = rows * scale[:, None] + shift[:, None]
    rows = activate(rows, activation).to(packed.dtype)
    zero_row = rows.new_zeros(rows.shape[0], 1, rows.shape[2])  # last, where an index of -1 looks
    gathered = torch.cat([rows, zero_row], dim=1)[:, index.flatten().long()]  # [B, N_out * T, C]
    return gathered.reshape(packed.shape[0], index.shape[0], index.shape[1] * packed.shape[2])


def check_gather(
    op: str,
    packed: Tensor,
    recorded: Tensor,
    index: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    activation: int,
) -> None:
    """Refuses wrong arguments among those that gather and sparse_conv2d share."""
    check_tensor(op, "packed", packed, packed, packed.dtype, "[B, N, C]", (None, None, None))
    batch, _, channels = packed.shape
    check_tensor(op, "recorded", recorded, packed, packed.dtype, "[B, M, C]", (batch, None, channels))
    check_tensor(op, "index", index, packed, torch.int32, "[N_out, T]", (None, None))
    if (scale is None) != (shift is None):
        raise OpError(f"{op}: scale and shift go together, got only {'shift' if scale is None else 'scale'}")
    if scale is not None and shift is not None:
        check_tensor(op, "scale", scale, packed, torch.float32, "[B, C]", (batch, channels))
        check_tensor(op, "shift", shift, packed, torch.float32, "[B, C]", (batch, channels))
    check_storage_dtype(op, "packed", packed)
    check_activation(op, activation)


def gather_range(packed: Tensor, recorded: Tensor, index: Tensor, *_: object) -> IndexRange:
    """The rows that a gather map may name."""
    return IndexRange("index", index, -1, packed.shape[1] + recorded.shape[1])


register(
    "gather(Tensor packed, Tensor recorded, Tensor index, Tensor? scale, Tensor? shift, int activation) -> Tensor",
    reference=_gather_reference,
    fake=_gather_fake,
    index_range=gather_range,
)
