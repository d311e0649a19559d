"""time_table against a linear layer for each residual block, at the sizes of SDXL and of the embedded model.

python -m benchmarks.time_table [--runs 7] [--device cpu] [--dtypes fp32] [--json OUT]
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Options, Row, interleaved, run
from sige.dtypes import named_dtype
from sige.ops import time_table

MODELS = {  # size of the embedding, channels of each block
    "sdxl-base": (1280, (320,) * 2 + (640,) * 2 + (1280,) * 7 + (640,) * 3 + (320,) * 3),
    "embedded": (192, (48,) * 2 + (64,) * 2 + (80,) * 7 + (64,) * 3 + (48,) * 3),
}
BATCH = 2


def measure(options: Options) -> list[Row]:
    return [_measure_model(name, dtype, options) for dtype in options.dtypes for name in MODELS]


def _measure_model(name: str, dtype: str, options: Options) -> Row:
    size, channels = MODELS[name]

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, device=options.device, dtype=named_dtype(dtype))

    time = random(BATCH, size)
    weights, biases = [random(c, size) for c in channels], [random(c) for c in channels]

    def one_by_one() -> None:
        for weight, bias in zip(weights, biases, strict=True):
            F.linear(time, weight, bias).add_(bias)

    timings = interleaved({"F.linear": one_by_one, "op": lambda: time_table(time, weights, biases, biases)}, options)
    return {
        "dtype": dtype,
        "model": name,
        "layers": len(channels),
        "F.linear ms": timings["F.linear"],
        "op ms": timings["op"],
        "op/F.linear": timings["op"].median / timings["F.linear"].median,
    }


if __name__ == "__main__":
    run(__doc__, measure)
