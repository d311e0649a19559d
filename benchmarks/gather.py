"""gather against memcpy: the share of the copy bandwidth that the bytes it must move reach.

    python -m benchmarks.gather [--runs 7] [--device cpu] [--dtypes fp32] [--json OUT]

Bytes of a gather: every packed and recorded row read once, the index, the gathered matrix written. The memcpy moves
the same number of bytes, half of them read, half written.
"""

from __future__ import annotations

import torch

from benchmarks.measure import DTYPES, Options, Row, interleaved, run
from benchmarks.shapes import BATCH, LEVELS, level
from sige.ops import gather

RATIOS = (0.12, 1.0)
CHANNELS = ((128, 64, 128), *LEVELS)


def measure(options: Options) -> list[Row]:
    rows = []
    for dtype in options.dtypes:
        for shape in CHANNELS:
            for ratio in RATIOS:
                rows.append(_measure_level(shape, ratio, dtype, options))
    return rows


def _measure_level(shape: tuple[int, int, int], ratio: float, dtype: str, options: Options) -> Row:
    at = level(*shape, ratio, DTYPES[dtype], options.device)
    scale, shift = (torch.randn(BATCH, at.channels, device=options.device) for _ in range(2))
    out_elements = BATCH * at.index.numel() * at.channels
    moved = (at.packed.numel() + at.halo.numel() + out_elements) * at.packed.element_size() + at.index.nbytes
    source, target = (torch.ones(moved // 2, dtype=torch.uint8, device=options.device) for _ in range(2))
    timings = interleaved(
        {
            "memcpy": lambda: target.copy_(source),
            "gather": lambda: gather(at.packed, at.halo, at.index),
            "with silu": lambda: gather(at.packed, at.halo, at.index, scale, shift, "silu"),
        },
        options,
    )
    return {
        "dtype": dtype,
        "level": at.name,
        "active": at.active,
        "MB": moved / 1e6,
        "memcpy ms": timings["memcpy"],
        "gather ms": timings["gather"],
        "scale+silu ms": timings["with silu"],
        "gather GB/s": moved / 1e6 / timings["gather"].median,
        "of memcpy": timings["memcpy"].median / timings["gather"].median,
    }


if __name__ == "__main__":
    run(__doc__, measure)
