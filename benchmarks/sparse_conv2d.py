"""sparse_conv2d 3x3 against the dense convolution in its best memory format.

    python -m benchmarks.sparse_conv2d [--runs 7] [--device cpu] [--dtypes fp32] [--json OUT]

"plain" needs no extension: it indexes the rows and calls F.linear. "fused" adds the rest of a residual block: scale,
shift and SiLU before the convolution, bias and residual after it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from benchmarks.harness import Options, Row, interleaved, run
from benchmarks.shapes import BATCH, LEVELS, Level, level
from sige.dtypes import named_dtype
from sige.ops import flatten_weight, sparse_conv2d

RATIOS = (0.01, 0.05, 0.12, 0.30, 1.0)


def measure(options: Options) -> list[Row]:
    rows = []
    for dtype in options.dtypes:
        for shape in LEVELS:
            for ratio in RATIOS:
                rows.append(_measure_level(level(*shape, ratio, named_dtype(dtype), options.device), dtype, options))
    return rows


def _measure_level(at: Level, dtype: str, options: Options) -> Row:
    c, device = at.channels, options.device
    weight = torch.randn(c, c, 3, 3, device=device, dtype=named_dtype(dtype)) * (9 * c) ** -0.5
    bias = torch.randn(c, device=device, dtype=named_dtype(dtype))
    flat, residual = flatten_weight(weight), torch.randn_like(at.packed)
    scale, shift = (torch.randn(BATCH, c, device=device) for _ in range(2))
    weight_last, dense_first = weight.to(memory_format=torch.channels_last), at.dense.contiguous()
    # The zero row stands before the others, so that an index of -1 needs no special case.
    rows = torch.cat([torch.zeros_like(at.packed[:, :1]), at.packed, at.halo], dim=1)
    lookup = (at.index.long() + 1).flatten()

    timings = interleaved(
        {
            "dense nchw": lambda: F.conv2d(dense_first, weight, bias, padding=1),
            "dense nhwc": lambda: F.conv2d(at.dense, weight_last, bias, padding=1),
            "plain": lambda: F.linear(rows[:, lookup].reshape(-1, 9 * c), flat, bias),
            "op": lambda: sparse_conv2d(at.packed, at.halo, at.index, flat, bias),
            "fused": lambda: sparse_conv2d(at.packed, at.halo, at.index, flat, bias, scale, shift, "silu", residual),
        },
        options,
    )
    dense = min(timings["dense nchw"], timings["dense nhwc"], key=lambda timing: timing.median)
    return {
        "dtype": dtype,
        "level": at.name,
        "active": at.active,
        "dense ms": dense,
        "plain ms": timings["plain"],
        "op ms": timings["op"],
        "fused ms": timings["fused"],
        "plain/dense": timings["plain"].median / dense.median,
        "op/dense": timings["op"].median / dense.median,
        "fused/dense": timings["fused"].median / dense.median,
    }


if __name__ == "__main__":
    run(__doc__, measure)
