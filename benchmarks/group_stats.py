"""group_stats and its update against the same sums in torch.

    python -m benchmarks.group_stats [--runs 7] [--device cpu] [--dtypes fp32] [--json OUT]

"torch" sums in fp32 (torch.var_mean over the groups, as a GroupNorm does); the update reads the active rows only.
"""

from __future__ import annotations

import torch

from benchmarks.harness import Options, Row, interleaved, run
from benchmarks.shapes import BATCH, LEVELS, rectangle
from sige.dtypes import named_dtype
from sige.ops import group_stats, update_group_stats

GROUPS = 32


def measure(options: Options) -> list[Row]:
    return [_measure_level(shape, dtype, options) for dtype in options.dtypes for shape in LEVELS]


def _measure_level(shape: tuple[int, int, int], dtype: str, options: Options) -> Row:
    channels, height, width = shape
    region = rectangle(height, width, 0.12)
    index = torch.tensor(region.index(height, width), device=options.device)
    rows = torch.randn(BATCH, height * width, channels, device=options.device).to(named_dtype(dtype))
    packed = torch.randn(BATCH, len(index), channels, device=options.device).to(named_dtype(dtype))
    stats = group_stats(rows, GROUPS)
    timings = interleaved(
        {
            "torch": lambda: torch.var_mean(rows.unflatten(2, (GROUPS, -1)).float(), dim=(1, 3)),
            "stats": lambda: group_stats(rows, GROUPS),
            "update": lambda: update_group_stats(stats, rows, index, packed),
        },
        options,
    )
    return {
        "dtype": dtype,
        "level": f"{channels}x{height}x{width}",
        "torch ms": timings["torch"],
        "group_stats ms": timings["stats"],
        "update ms": timings["update"],
        "group_stats GB/s": rows.nbytes / 1e6 / timings["stats"].median,
    }


if __name__ == "__main__":
    run(__doc__, measure)
