"""block_attention against SDPA on concatenated rows, at the sizes of SDXL's self-attention and the VAE's.

    python -m benchmarks.block_attention [--runs 7] [--device cpu] [--dtypes fp32] [--json OUT]

"SDPA" gets keys and values with the active rows already replaced. "with replacing" also copies the recorded rows and
replaces the active ones, as a packed layer would have to before SDPA. "half the blocks" hides every second key block
from each query block; SDPA with a mask computes the hidden blocks all the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Options, Row, interleaved, run
from benchmarks.shapes import BATCH, rectangle
from sige import row_map
from sige.dtypes import named_dtype
from sige.ops import ATTENTION_BLOCK, block_attention

SHAPES = ((32, 64, 10, 64), (16, 32, 20, 64), (64, 64, 10, 64), (64, 128, 1, 512))  # H, W, heads, head size
RATIO = 0.12


def measure(options: Options) -> list[Row]:
    return [_measure_shape(shape, dtype, options) for dtype in options.dtypes for shape in SHAPES]


def _measure_shape(shape: tuple[int, int, int, int], dtype: str, options: Options) -> Row:
    height, width, heads, size = shape
    region = rectangle(height, width, RATIO)
    active = torch.tensor(region.index(height, width), device=options.device).long()
    index = torch.tensor(row_map(region, height, width), device=options.device)

    def random(rows: int) -> Tensor:  # [B, rows, Hd, D]
        return torch.randn(BATCH, rows, heads, size, device=options.device).to(named_dtype(dtype))

    query, key, value = (random(len(active)) for _ in range(3))
    recorded_key, recorded_value = (random(height * width) for _ in range(2))
    keys, values = recorded_key.index_copy(1, active, key), recorded_value.index_copy(1, active, value)
    blocks = [-(-rows // ATTENTION_BLOCK) for rows in (len(active), len(index))]
    mask = torch.ones(*blocks, dtype=torch.bool, device=options.device)
    mask[:, ::2] = False

    def attend(keys: Tensor, values: Tensor) -> Tensor:
        heads_first = [rows.transpose(1, 2) for rows in (query, keys, values)]  # [B, Hd, N, D] each
        return F.scaled_dot_product_attention(heads_first[0], heads_first[1], heads_first[2]).transpose(1, 2)

    def replace_and_attend() -> Tensor:
        return attend(recorded_key.index_copy(1, active, key), recorded_value.index_copy(1, active, value))

    rows = [rows.flatten(2) for rows in (query, key, value, recorded_key, recorded_value)]

    def op(mask: Tensor | None) -> Tensor:
        return block_attention(rows[0], rows[1], rows[2], rows[3], rows[4], index, heads, mask)

    timings = interleaved(
        {
            "sdpa": lambda: attend(keys, values),
            "replace": replace_and_attend,
            "op": lambda: op(None),
            "half": lambda: op(mask),
        },
        options,
    )
    return {
        "dtype": dtype,
        "positions": f"{height}x{width}",
        "heads": f"{heads}x{size}",
        "active": region.ratio(height, width),
        "SDPA ms": timings["sdpa"],
        "with replacing ms": timings["replace"],
        "op ms": timings["op"],
        "half the blocks ms": timings["half"],
        "op/SDPA": timings["op"].median / timings["sdpa"].median,
        "op/replacing": timings["op"].median / timings["replace"].median,
    }


if __name__ == "__main__":
    run(__doc__, measure)
