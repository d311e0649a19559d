"""geglu_rows against chunk, gelu and a product in stock torch, at the sizes of SDXL's and the embedded model's rows.

python -m benchmarks.geglu_rows [--runs 7] [--device cpu] [--dtypes fp32] [--json OUT]
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from benchmarks.harness import Options, Row, interleaved, run
from sige.dtypes import named_dtype
from sige.ops import geglu_rows

SHAPES = ((36, 256), (16, 320), (240, 2560), (61, 5120), (968, 2560))  # rows, channels of the result
BATCH = 2


def measure(options: Options) -> list[Row]:
    return [_measure_shape(*shape, dtype, options) for dtype in options.dtypes for shape in SHAPES]


def _measure_shape(count: int, channels: int, dtype: str, options: Options) -> Row:
    rows = torch.randn(BATCH, count, 2 * channels, device=options.device, dtype=named_dtype(dtype))

    def in_torch() -> None:
        hidden, gate = rows.chunk(2, dim=-1)
        F.gelu(gate).mul_(hidden)

    timings = interleaved({"torch": in_torch, "op": lambda: geglu_rows(rows)}, options)
    return {
        "dtype": dtype,
        "rows x C": f"{count}x{channels}",
        "torch ms": timings["torch"],
        "op ms": timings["op"],
        "op/torch": timings["op"].median / timings["torch"].median,
    }


if __name__ == "__main__":
    run(__doc__, measure)
