"""gather against memcpy: the share of the copy bandwidth that it reaches with the bytes that it must move.

    python -m benchmarks.gather [--runs 7] [--device cpu] [--dtypes fp32] [--json OUT]

A gather must read every packed and recorded row once, read the index, and write the gathered matrix. The memcpy moves
the same number of bytes, half of them read and half written, into memory that it has written before. The gather runs in
pieces of at most 16 MB, as in sparse_conv2d. "whole" is one call. The system maps and clears the pages of its large
result at the first touch, which takes many times as long as the copy; so compare "whole" with "clone", not with memcpy.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.harness import Options, Row, interleaved, run
from benchmarks.shapes import BATCH, LEVELS, level
from sige.dtypes import named_dtype
from sige.ops import Activation, gather

RATIOS = (0.12, 1.0)
CHANNELS = ((128, 64, 128), *LEVELS)
PIECE_BYTES = 16 << 20


def measure(options: Options) -> list[Row]:
    rows = []
    for dtype in options.dtypes:
        for shape in CHANNELS:
            for ratio in RATIOS:
                rows.append(_measure_level(shape, ratio, dtype, options))
    return rows


def _measure_level(shape: tuple[int, int, int], ratio: float, dtype: str, options: Options) -> Row:
    at = level(*shape, ratio, named_dtype(dtype), options.device)
    scale, shift = (torch.randn(BATCH, at.channels, device=options.device) for _ in range(2))
    out_elements = BATCH * at.index.numel() * at.channels
    moved = (at.packed.numel() + at.halo.numel() + out_elements) * at.packed.element_size() + at.index.nbytes
    source, target = (torch.ones(moved // 2, dtype=torch.uint8, device=options.device) for _ in range(2))
    pieces = at.index.split(max(PIECE_BYTES // (BATCH * 9 * at.channels * at.packed.element_size()), 1))

    def in_pieces(scale: Tensor | None = None, shift: Tensor | None = None, activation: Activation = "none") -> None:
        for piece in pieces:  # no result is kept: the next piece takes the memory of the last one
            gather(at.packed, at.halo, piece, scale, shift, activation)

    timings = interleaved(
        {
            "memcpy": lambda: target.copy_(source),
            "gather": in_pieces,
            "with silu": lambda: in_pieces(scale, shift, "silu"),
            "clone": lambda: source.clone(),
            "whole": lambda: gather(at.packed, at.halo, at.index),
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
        "clone ms": timings["clone"],
        "whole ms": timings["whole"],
        "whole of clone": timings["clone"].median / timings["whole"].median,
    }


if __name__ == "__main__":
    run(__doc__, measure)
