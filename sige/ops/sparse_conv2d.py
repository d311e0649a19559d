"""sparse_conv2d: a convolution at the active positions only; gather and matrix product in one op."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sige.errors import OpError
from sige.ops.activation import Activation, activation_code
from sige.ops.checks import check_tensor
from sige.ops.gather import _gather_reference, check_gather, gather_range
from sige.ops.registry import register

__all__ = ["flatten_weight", "sparse_conv2d"]


def sparse_conv2d(
    packed: Tensor,  # [B, N, C]
    recorded: Tensor,  # [B, M, C]
    index: Tensor,  # int32 [N_out, T]
    weight: Tensor,  # [C_out, T * C]
    bias: Tensor | None = None,  # [C_out] or [B, C_out]; the rows of the latter may lie apart
    scale: Tensor | None = None,  # fp32 [B, C]
    shift: Tensor | None = None,  # fp32 [B, C]
    activation: Activation = "none",
    residual: Tensor | None = None,  # [B, N_out, C_out]
    chunk_rows: int = 0,
) -> Tensor:  # [B, N_out, C_out]
    """`gather(...) @ weight.T + bias + residual`, with at most one chunk of the gathered matrix alive at a time.

    `chunk_rows` is the number of output rows in a chunk, where the product needs a gathered matrix; 0 lets the op
    choose what stays in cache.

    >>> packed, recorded = torch.ones(1, 1, 2), torch.zeros(1, 0, 2)
    >>> index = torch.full((1, 9), -1, dtype=torch.int32)
    >>> index[0, 4] = 0  # a lone active position: every neighbour is padding
    >>> weight = flatten_weight(torch.ones(3, 2, 3, 3))
    >>> sparse_conv2d(packed, recorded, index, weight).tolist()
    [[[2.0, 2.0, 2.0]]]
    """
    code = activation_code(activation)
    op = torch.ops.sige.sparse_conv2d.default
    return op(packed, recorded, index, weight, bias, scale, shift, code, residual, chunk_rows)  # type: ignore[no-any-return]


def flatten_weight(weight: Tensor) -> Tensor:  # [C_out, C, kh, kw] -> [C_out, kh * kw * C]
    """A convolution's weight in the order in which gather lays out taps and channels."""
    return weight.permute(0, 2, 3, 1).flatten(1).contiguous()


def _sparse_conv2d_fake(
    packed: Tensor,
    recorded: Tensor,
    index: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    activation: int,
    residual: Tensor | None,
    chunk_rows: int,
) -> Tensor:
    op = "sparse_conv2d"
    check_gather(op, packed, recorded, index, scale, shift, activation)
    batch, _, channels = packed.shape
    check_tensor(op, "weight", weight, packed, packed.dtype, "[C_out, T * C]", (None, index.shape[1] * channels))
    if bias is not None and bias.dim() == 2:
        gaps = bias.stride(1) == 1
        check_tensor(op, "bias", bias, packed, packed.dtype, "[B, C_out]", (batch, weight.shape[0]), not gaps)
    elif bias is not None:
        check_tensor(op, "bias", bias, packed, packed.dtype, "[C_out]", (weight.shape[0],))
    out_shape = (batch, index.shape[0], weight.shape[0])
    if residual is not None:
        check_tensor(op, "residual", residual, packed, packed.dtype, "[B, N_out, C_out]", out_shape)
    if chunk_rows < 0:
        raise OpError(f"{op}: chunk_rows is {chunk_rows}, expected 0 (automatic) or a positive number of rows")
    return packed.new_empty(out_shape)


def _sparse_conv2d_reference(
    packed: Tensor,  # [B, N, C]
    recorded: Tensor,  # [B, M, C]
    index: Tensor,  # int [N_out, T]
    weight: Tensor,  # [C_out, T * C]
    bias: Tensor | None,  # [C_out] or [B, C_out]
    scale: Tensor | None,  # [B, C]
    shift: Tensor | None,  # [B, C]
    activation: int,
    residual: Tensor | None,  # [B, N_out, C_out]
    chunk_rows: int,
) -> Tensor:  # [B, N_out, C_out]
    gathered = _gather_reference(packed, recorded, index, scale, shift, activation)
    product = F.linear(gathered, weight, bias if bias is None or bias.dim() == 1 else None)
    if bias is not None and bias.dim() == 2:
        product = product + bias[:, None]
    return product if residual is None else product + residual


register(
    "sparse_conv2d(Tensor packed, Tensor recorded, Tensor index, Tensor weight, Tensor? bias, Tensor? scale, "
    "Tensor? shift, int activation, Tensor? residual, int chunk_rows) -> Tensor",
    reference=_sparse_conv2d_reference,
    fake=_sparse_conv2d_fake,
    index_range=gather_range,
)
