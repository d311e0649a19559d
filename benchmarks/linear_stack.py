"""linear_stack against F.linear for each layer, at the sizes of query, key and value in SDXL's transformers.

    python -m benchmarks.linear_stack [--runs 7] [--device cpu] [--dtypes fp32] [--json OUT]

Each call takes the next of several copies of the weights, so that the weights are not in the caches, as in a model.
On a GPU several calls are one graph, so that only the device's time counts.
"""

from __future__ import annotations

from itertools import cycle

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Options, Row, interleaved, run
from benchmarks.products import per_call, repeated
from sige.dtypes import named_dtype
from sige.ops import linear_stack

LAYERS = 3
CHANNELS = (1280, 640)
ROWS = (16, 61, 122, 288, 480, 968)
COLD_BYTES = {"cpu": 80 << 20, "cuda": 512 << 20}  # of weights that take turns: more than a cache holds


def measure(options: Options) -> list[Row]:
    return [
        _measure_shape(channels, count, dtype, options)
        for dtype in options.dtypes
        for channels in CHANNELS
        for count in ROWS
    ]


def _measure_shape(channels: int, count: int, dtype: str, options: Options) -> Row:
    rows = torch.randn(1, count, channels, device=options.device, dtype=named_dtype(dtype))
    copies = COLD_BYTES[options.device.type] // (LAYERS * channels * channels * rows.element_size()) + 2
    made = torch.randn(copies, LAYERS, channels, channels, device=options.device, dtype=named_dtype(dtype))
    first, second = (cycle([list(weights) for weights in made]) for _ in range(2))

    def one_by_one() -> list[Tensor]:
        return [F.linear(rows, weight) for weight in next(first)]

    calls = {
        "F.linear": repeated(one_by_one, options.device),
        "op": repeated(lambda: linear_stack(rows, next(second)), options.device),
    }
    timings = interleaved(calls, options)
    torch_ms, op_ms = (per_call(timings[name], options.device) for name in calls)
    return {
        "dtype": dtype,
        "layers": LAYERS,
        "C": channels,
        "rows": count,
        "F.linear ms": torch_ms,
        "op ms": op_ms,
        "op/F.linear": op_ms / torch_ms,
        "op GFLOP/s": 2 * LAYERS * count * channels**2 / 1e6 / op_ms,
    }


if __name__ == "__main__":
    run(__doc__, measure)
