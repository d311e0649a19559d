"""blend_rows against the same sum in torch: the halo of a 3x3 convolution, from three recordings.

    python -m benchmarks.blend_rows [--runs 7] [--device cpu] [--dtypes fp32] [--json OUT]

"torch" selects the rows of each recording, multiplies the first and adds the others in place.
"""

from __future__ import annotations

import torch

from benchmarks.harness import Options, Row, interleaved, run
from benchmarks.shapes import BATCH, LEVELS, rectangle
from sige import Geometry, gather_map
from sige.dtypes import named_dtype
from sige.ops import blend_rows

QUADRATIC = (3.0, -3.0, 1.0)  # a forecast from three recordings, one step on
SMALL = (48, 32, 32)  # a level of the embedded model


def measure(options: Options) -> list[Row]:
    return [_measure_level(shape, dtype, options) for dtype in options.dtypes for shape in (SMALL, *LEVELS)]


def _measure_level(shape: tuple[int, int, int], dtype: str, options: Options) -> Row:
    channels, height, width = shape
    halo = gather_map(rectangle(height, width, 0.12), Geometry.conv3x3(), height, width).halo
    index = torch.tensor(halo, device=options.device)
    recorded = [
        torch.randn(BATCH, height * width, channels, device=options.device).to(named_dtype(dtype)) for _ in QUADRATIC
    ]

    factors = torch.tensor(QUADRATIC, dtype=torch.float64, device=options.device)

    def select_and_add() -> None:
        first, *rest = (rows.index_select(1, index) for rows in recorded)
        total = first * QUADRATIC[0]
        for rows, weight in zip(rest, QUADRATIC[1:], strict=True):
            total.add_(rows, alpha=weight)

    timings = interleaved(
        {"torch": select_and_add, "blend": lambda: blend_rows(recorded, factors, index)},
        options,
    )
    return {
        "dtype": dtype,
        "level": f"{channels}x{height}x{width}",
        "rows": len(index),
        "torch ms": timings["torch"],
        "blend_rows ms": timings["blend"],
        "blend_rows/torch": timings["blend"].median / timings["torch"].median,
    }


if __name__ == "__main__":
    run(__doc__, measure)
