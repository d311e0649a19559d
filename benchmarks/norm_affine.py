"""norm_affine against small calls that compute the same: update_group_stats for each recording, then torch.

    python -m benchmarks.norm_affine [--runs 7] [--device cpu] [--dtypes fp32] [--json OUT]

It runs for one recording, and for a forecast from three recordings, whose moments are blended.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.harness import Options, Row, interleaved, run
from benchmarks.shapes import BATCH, LEVELS, rectangle
from sige.dtypes import named_dtype
from sige.ops import group_stats, norm_affine, update_group_stats
from sige.ops.moments import blend_stats, scale_and_shift

BLENDS = ((1.0,), (3.0, -3.0, 1.0))
SMALL = (48, 32, 32)  # a level of the embedded model
EPS = 1e-5


def measure(options: Options) -> list[Row]:
    return [
        _measure_level(shape, blend, dtype, options)
        for dtype in options.dtypes
        for shape in (SMALL, *LEVELS)
        for blend in BLENDS
    ]


def _measure_level(shape: tuple[int, int, int], blend: tuple[float, ...], dtype: str, options: Options) -> Row:
    channels, height, width = shape
    groups = min(32, channels // 4)

    def random(*size: int) -> Tensor:
        return torch.randn(size, device=options.device).to(named_dtype(dtype))

    index = torch.tensor(rectangle(height, width, 0.12).index(height, width), device=options.device)
    recorded = [random(BATCH, height * width, channels) for _ in blend]
    stats = [group_stats(rows, groups) for rows in recorded]
    packed, weight, bias = random(BATCH, len(index), channels), random(channels), random(channels)
    count = height * width * channels // groups

    factors = torch.tensor(blend, dtype=torch.float64, device=options.device)

    def in_small_calls() -> None:
        pairs = zip(stats, recorded, strict=True)
        updated = [update_group_stats(sums, rows, index, packed) for sums, rows in pairs]
        scale_and_shift(blend_stats(updated, blend, count), count, channels, weight, bias, EPS)

    timings = interleaved(
        {
            "small calls": in_small_calls,
            "one call": lambda: norm_affine(stats, recorded, factors, index, packed, weight, bias, EPS),
        },
        options,
    )
    return {
        "dtype": dtype,
        "level": f"{channels}x{height}x{width}",
        "recordings": len(blend),
        "small calls ms": timings["small calls"],
        "norm_affine ms": timings["one call"],
        "ratio": timings["one call"].median / timings["small calls"].median,
    }


if __name__ == "__main__":
    run(__doc__, measure)
