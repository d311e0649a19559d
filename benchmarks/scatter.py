"""scatter against index assignment, into each memory format of a dense tensor.

    python -m benchmarks.scatter [--runs 7] [--device cpu] [--dtypes fp32] [--json OUT]

"assign" is `dense[:, :, y, x] = rows` in torch.
"""

from __future__ import annotations

import torch

from benchmarks.harness import Options, Row, interleaved, run
from benchmarks.shapes import BATCH, rectangle
from sige.dtypes import named_dtype
from sige.ops import scatter

SHAPES = ((4, 64, 128), (3, 512, 1024), (320, 64, 128))  # the UNet's output, the decoder's, an inner level


def measure(options: Options) -> list[Row]:
    rows = []
    for dtype in options.dtypes:
        for shape in SHAPES:
            for memory_format in (torch.contiguous_format, torch.channels_last):
                rows.append(_measure_shape(shape, memory_format, dtype, options))
    return rows


def _measure_shape(
    shape: tuple[int, int, int], memory_format: torch.memory_format, dtype: str, options: Options
) -> Row:
    channels, height, width = shape
    region = rectangle(height, width, 0.12)
    index = torch.tensor(region.index(height, width), device=options.device)
    dense = torch.zeros(BATCH, *shape, device=options.device, dtype=named_dtype(dtype)).to(memory_format=memory_format)
    packed = torch.randn(BATCH, len(index), channels, device=options.device, dtype=named_dtype(dtype))
    y, x = index.long() // width, index.long() % width

    def assign() -> None:
        dense[:, :, y, x] = packed.transpose(1, 2)

    timings = interleaved({"assign": assign, "scatter": lambda: scatter(dense, packed, index)}, options)
    return {
        "dtype": dtype,
        "dense": f"{channels}x{height}x{width}",
        "format": str(memory_format).removeprefix("torch."),
        "active": region.ratio(height, width),
        "assign ms": timings["assign"],
        "scatter ms": timings["scatter"],
        "scatter/assign": timings["scatter"].median / timings["assign"].median,
    }


if __name__ == "__main__":
    run(__doc__, measure)
