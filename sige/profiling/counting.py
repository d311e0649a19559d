"""The rules that give the multiply-accumulates of an op: one rule per op; an op of ours without a rule is an error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, Literal

import numpy as np
from torch import Tensor

from sige.ops import ATTENTION_BLOCK

__all__ = ["ATTENTION", "COUNTED", "Counts", "Kind", "attention"]

Kind = Literal["convolution", "linear", "self-attention", "cross-attention", "norm", "elementwise", "statistics"]
Counts = list[tuple[Kind, int]]
Rule = Callable[[Sequence[Any], Any], Counts]  # arguments and output of an op

ATTENTION: tuple[Kind, ...] = ("self-attention", "cross-attention")


def _convolution(args: Sequence[Any], out: Tensor) -> Counts:
    (source, weight), transposed = args[:2], args[6]
    return [("convolution", (source if transposed else out).numel() * prod(weight.shape[1:]))]


def _linear(args: Sequence[Any], out: Tensor) -> Counts:
    return [("linear", args[0].numel() * args[1].shape[0])]


def _linear_layers(args: Sequence[Any], out: Tensor) -> Counts:
    return [("linear", args[0].numel() * sum(len(weight) for weight in args[1]))]


def attention(args: Sequence[Any], out: Any) -> Counts:  # [..., N, D], [..., L, D], [..., L, Dv]
    query, key, value = args[:3]
    return [("self-attention", prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1]))]


def _one_per_output(kind: Kind) -> Rule:
    return lambda args, out: [(kind, (out if isinstance(out, Tensor) else out[0]).numel())]


def _gather(args: Sequence[Any], out: Tensor) -> Counts:
    scale, activation = args[3], args[5]
    return _transform(out.numel(), scale, activation)


def _sparse_conv2d(args: Sequence[Any], out: Tensor) -> Counts:
    packed, recorded, index, weight, _, scale, _, activation = args[:8]
    products = packed.shape[0] * index.shape[0] * weight.numel()
    return [("convolution", products), *_transform(packed.numel() + recorded.numel(), scale, activation)]


def _transform(elements: int, scale: Tensor | None, activation: int) -> Counts:
    """The counts of the transform in a gather: scale and shift count as a norm, the activation as a SiLU."""
    norm: Counts = [("norm", elements)] if scale is not None else []
    return [*norm, ("elementwise", elements)] if activation else norm


def _blend_rows(args: Sequence[Any], out: Tensor) -> Counts:
    return [("elementwise", len(args[0]) * out.numel())]


def _norm_affine(args: Sequence[Any], out: Sequence[Tensor]) -> Counts:
    """Each recording's update reads its old and its new rows; then each channel gets a scale and a shift."""
    return [("statistics", 2 * len(args[0]) * args[4].numel()), ("elementwise", 2 * out[0].numel())]


def _block_attention(args: Sequence[Any], out: Tensor) -> Counts:
    query, index, mask = args[0], args[5], args[7]
    pairs = query.shape[1] * index.shape[0]
    if mask is not None and mask.device.type != "meta":
        pairs = _seen_pairs(mask, query.shape[1], index.shape[0])
    batch, _, channels = query.shape
    return [("self-attention", 2 * batch * channels * pairs)]


def _seen_pairs(mask: Tensor, queries: int, keys: int) -> int:  # bool [ceil(N / 64), ceil(L / 64)]
    rows, columns = (
        np.minimum(ATTENTION_BLOCK, total - ATTENTION_BLOCK * np.arange(blocks))
        for total, blocks in zip((queries, keys), mask.shape, strict=True)
    )
    return int(rows @ mask.cpu().numpy().astype(np.int64) @ columns)


COUNTED: dict[str, Rule] = {
    "aten::convolution": _convolution,
    "aten::addmm": lambda args, out: [("linear", args[1].numel() * args[2].shape[1])],
    "aten::mm": lambda args, out: [("linear", args[0].numel() * args[1].shape[1])],
    "aten::linear": _linear,
    # Matmuls of attention processors that do not call SDPA. The counter takes a bmm by a weight for a linear layer.
    "aten::bmm": lambda args, out: [("self-attention", args[0].numel() * args[1].shape[2])],
    "aten::baddbmm": lambda args, out: [("self-attention", args[1].numel() * args[2].shape[2])],
    # A call of SDPA from Python is counted before torch splits it into other ops; these are for callers in C++.
    "aten::_scaled_dot_product_flash_attention_for_cpu": attention,
    "aten::_scaled_dot_product_flash_attention": attention,
    "aten::_scaled_dot_product_efficient_attention": attention,
    "aten::_scaled_dot_product_cudnn_attention": attention,
    "aten::native_group_norm": _one_per_output("norm"),
    "aten::native_layer_norm": _one_per_output("norm"),
    "aten::silu": _one_per_output("elementwise"),
    "aten::silu_": _one_per_output("elementwise"),
    "aten::mul": _one_per_output("elementwise"),
    "aten::mul_": _one_per_output("elementwise"),
    "sige::gather": _gather,
    "sige::sparse_conv2d": _sparse_conv2d,
    "sige::linear": _linear,
    "sige::linear_stack": _linear_layers,
    "sige::time_table": _linear_layers,
    "sige::geglu_rows": _one_per_output("elementwise"),
    "sige::scatter": lambda args, out: [],  # moves rows
    "sige::group_stats": lambda args, out: [("statistics", args[0].numel())],
    "sige::update_group_stats": lambda args, out: [("statistics", 2 * args[3].numel())],  # old and new
    "sige::norm_affine": _norm_affine,
    "sige::blend_rows": _blend_rows,
    "sige::block_attention": _block_attention,
}
