"""Row-wise layers on packed rows: linear layers, 1x1 convolutions, the gated feed-forward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

import torch.nn.functional as F
from torch import Tensor, nn

from sige import ops
from sige.packed.module_state import is_hooked

__all__ = ["FeedForward", "is_plain", "linear", "linear_each"]


def linear(
    rows: Tensor,  # [B, N, C]
    layer: nn.Module,
    residual: Tensor | None = None,  # [B, N, C_out]
) -> Tensor:  # [B, N, C_out]
    """The output of a linear layer or a 1x1 convolution on rows, plus the residual.

    A plain layer goes through `ops.linear`, which adds bias and residual in the product's launch where that pays; on
    CUDA without a residual through torch's product, which does so with the bias. Any other layer (an adapter, a
    quantised layer, one with hooks) is called itself.
    """
    if isinstance(layer, nn.Conv2d) or is_plain(layer):
        weight, bias = layer.weight.flatten(1), layer.bias
        if residual is not None or not rows.is_cuda:
            return ops.linear(rows.contiguous(), weight, bias, residual)
        out = F.linear(rows, weight, bias)
    else:
        out = layer(rows)
    return out if residual is None else out.add_(residual)


def linear_each(
    rows: Tensor,  # [B, N, C]
    layers: Sequence[nn.Module],
) -> tuple[Tensor, ...]:  # [B, N, C_out] each
    """The outputs of several linear layers on the same rows.

    Plain layers of one shape go through `ops.linear_stack`, on CUDA one launch where that pays; their outputs lie one
    after the other in the same memory. All others run one by one.
    """
    stack = _stack(layers)
    if stack is None:
        return tuple(linear(rows, layer) for layer in layers)
    return ops.linear_stack(rows.contiguous(), *stack).unbind()


def _stack(
    layers: Sequence[nn.Module],
) -> tuple[Sequence[Tensor], Sequence[Tensor]] | None:  # [C_out, C] and [C_out] each
    """The weights and biases that the op takes: of plain layers of one shape, with a bias each or none at all."""
    plain = [layer for layer in layers if is_plain(layer)]
    if len(plain) < len(layers) or len(plain) > ops.MOST_LAYERS:
        return None
    weights, biases = [layer.weight for layer in plain], [layer.bias for layer in plain]
    given = [bias for bias in biases if bias is not None]
    alike = len({weight.shape for weight in weights}) == 1 and len(given) in (0, len(plain))
    return (weights, given) if alike else None


def is_plain(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Says whether this is a linear layer whose product is all that a call of it does."""
    return type(layer) is nn.Linear and not is_hooked(layer)


class FeedForward:
    """Linear, gated GELU, linear (GEGLU); plus the residual."""

    def __init__(self, project: nn.Module, out: nn.Module) -> None:
        self.project = project
        self.out = out

    def __call__(
        self,
        rows: Tensor,  # [B, N, C]
        residual: Tensor,  # [B, N, C]
    ) -> Tensor:  # [B, N, C]
        return linear(ops.geglu_rows(linear(rows, self.project).contiguous()), self.out, residual)
