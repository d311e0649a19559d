"""Row-wise layers on packed rows: linear layers, 1x1 convolutions, the gated feed-forward."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sige import ops
from sige.packed.module_state import is_hooked

__all__ = ["FeedForward", "is_plain", "linear"]


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
    if isinstance(layer, nn.Conv2d) or (is_plain(layer) and isinstance(layer, nn.Linear)):
        weight, bias = layer.weight.flatten(1), layer.bias
        if residual is not None or not rows.is_cuda:
            return ops.linear(rows.contiguous(), weight, bias, residual)
        out = F.linear(rows, weight, bias)
    else:
        out = layer(rows)
    return out if residual is None else out.add_(residual)


def is_plain(layer: nn.Module) -> bool:
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
