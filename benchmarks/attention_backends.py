"""Attention of a small region at SDXL's shapes: every backend of torch's SDPA beside block_attention.

    python -m benchmarks.attention_backends [--runs 7] [--device cpu] [--dtypes fp32] [--json OUT]

144 queries over 1024 keys and 484 over 4096 are an edit of an eighth of 1024x1024, with a batch of two; 77 keys are
those of the prompt. 1764 queries over 16384 keys are a tenth of 1024x1024 in the VAE: on a GPU only, where packed
passes run "wide" (`sige/packed/wide_attention.py`) in place of SDPA. "auto" is the backend that torch chooses. SDPA
and "wide" get all keys in one tensor; block_attention picks them from new and recorded rows. What cannot run here has a
dash.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.harness import Options, Row, interleaved, run
from benchmarks.products import BATCH, Function, per_call, repeated
from sige.dtypes import named_dtype
from sige.ops import block_attention
from sige.packed.wide_attention import LARGEST_FLASH_HEAD, wide_attention

SHAPES = ((144, 1024, 20, 64), (484, 4096, 10, 64), (144, 77, 20, 64), (484, 77, 10, 64))  # queries, keys, heads, size
WIDE_SHAPES = ((1764, 16384, 1, 512),)
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
OURS = ("op", "wide")


def measure(options: Options) -> list[Row]:
    shapes = SHAPES + (WIDE_SHAPES if options.device.type == "cuda" else ())
    return [_measure_shape(*shape, dtype, options) for dtype in options.dtypes for shape in shapes]


def _measure_shape(queries: int, keys: int, heads: int, size: int, dtype: str, options: Options) -> Row:
    def random(rows: int) -> Tensor:  # [B, rows, Hd * D]
        return torch.randn(BATCH, rows, heads * size, device=options.device, dtype=named_dtype(dtype))

    query, key, value, all_keys, all_values = (random(rows) for rows in (queries, queries, queries, keys, keys))
    if keys < queries:  # the prompt's keys, all of which are new
        key, value = all_keys, all_values
    # The first rows are new, the others recorded: entry v from `queries` on is recorded row v - `queries`.
    fresh = min(queries, keys)
    index = torch.arange(keys, dtype=torch.int32, device=options.device)
    index[fresh:] += queries
    functions: dict[str, Function] = {
        "auto": lambda: _attend(F.scaled_dot_product_attention, query, all_keys, all_values, heads)
    }
    for name, backend in BACKENDS.items():
        functions[name] = _with(backend, functions["auto"])
    functions["op"] = lambda: block_attention(query, key, value, all_keys, all_values, index, heads)
    if size > LARGEST_FLASH_HEAD:
        functions["wide"] = lambda: _attend(wide_attention, query, all_keys, all_values, heads)
    calls = {name: made for name, function in functions.items() if (made := _prepared(name, function, options.device))}
    times = {name: per_call(timing, options.device) for name, timing in interleaved(calls, options).items()}
    best = min((name for name in times if name not in OURS), key=lambda name: times[name])
    return {
        "dtype": dtype,
        "queries": queries,
        "keys": keys,
        "heads": f"{heads}x{size}",
        **{f"{name} us": 1e3 * times[name] if name in times else "-" for name in ("auto", *BACKENDS, *OURS)},
        "best SDPA": best,
        **{f"{name}/best": times[name] / times[best] if name in times else "-" for name in OURS},
    }


def _attend(
    attention: Callable[[Tensor, Tensor, Tensor], Tensor],  # on [B, Hd, N, D], [B, Hd, L, D] twice
    query: Tensor,  # [B, N, Hd * D]
    key: Tensor,  # [B, L, Hd * D]
    value: Tensor,  # [B, L, Hd * D]
    heads: int,
) -> Tensor:  # [B, N, Hd * D]
    query, key, value = (rows.unflatten(2, (heads, -1)).transpose(1, 2) for rows in (query, key, value))
    return attention(query, key, value).transpose(1, 2).flatten(2)


def _with(backend: SDPBackend, function: Function) -> Function:
    def run_with() -> object:
        with sdpa_kernel([backend]):
            return function()

    return run_with


def _prepared(name: str, function: Function, device: torch.device) -> Function | None:
    """The calls of one timing; None where this backend cannot run these shapes here, which is said."""
    try:
        function()
        return repeated(function, device)
    except RuntimeError as error:
        print(f"{name}: {str(error).strip().splitlines()[0]}")
        return None


if __name__ == "__main__":
    run(__doc__, measure)
