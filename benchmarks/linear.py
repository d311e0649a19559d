"""linear on packed rows against F.linear, at the sizes of SDXL's transformers.

    python -m benchmarks.linear [--runs 7] [--device cpu] [--dtypes fp32] [--json OUT]

Each call takes the next of several copies of the weights, so that the weights are not in the caches, as in a model.
"""

from __future__ import annotations

from itertools import cycle

import torch
import torch.nn.functional as F

from benchmarks.harness import Options, Row, interleaved, run
from sige.dtypes import named_dtype
from sige.ops import linear

SHAPES = ((1280, 1280), (1280, 10240), (5120, 1280), (640, 640), (640, 5120), (2560, 640))  # C, C_out
ROWS = (16, 61, 122, 240, 480, 1024)
COLD_BYTES = 80 << 20


def measure(options: Options) -> list[Row]:
    return [
        _measure_shape(c, c_out, count, dtype, options)
        for dtype in options.dtypes
        for c, c_out in SHAPES
        for count in ROWS
    ]


def _measure_shape(c: int, c_out: int, count: int, dtype: str, options: Options) -> Row:
    rows = torch.randn(1, count, c, device=options.device, dtype=named_dtype(dtype))
    bias = torch.randn(c_out, device=options.device, dtype=named_dtype(dtype))
    copies = max(COLD_BYTES // (c * c_out * rows.element_size()), 1) + 1
    weights = torch.randn(copies, c_out, c, device=options.device, dtype=named_dtype(dtype))
    first, second = cycle(weights), cycle(weights)
    timings = interleaved(
        {"F.linear": lambda: F.linear(rows, next(first), bias), "op": lambda: linear(rows, next(second), bias)},
        options,
    )
    gigaflop = 2 * count * c * c_out / 1e9
    return {
        "dtype": dtype,
        "C x C_out": f"{c}x{c_out}",
        "rows": count,
        "F.linear ms": timings["F.linear"],
        "op ms": timings["op"],
        "op/F.linear": timings["op"].median / timings["F.linear"].median,
        "op GFLOP/s": gigaflop / timings["op"].median * 1e3,
    }


if __name__ == "__main__":
    run(__doc__, measure)
