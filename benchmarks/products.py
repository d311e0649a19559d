"""Products of SDXL's layers at the few rows of a small region: torch's, and those of our ops.

    python -m benchmarks.products [--runs 7] [--device cpu] [--dtypes fp32] [--json OUT]

288 rows are 144 active positions of 32x32 in a batch of two, 968 rows are 484 of 64x64: 1024x1024 with an edit of an
eighth. "+" adds a residual. For a convolution torch multiplies rows that are gathered already, and the op gathers them
itself. On a GPU several calls are one graph, so that only the device's time counts; each takes other weights, since no
layer of a model finds its weights in a cache.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import cycle

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Options, Row, interleaved, run
from sige.dtypes import named_dtype
from sige.ops import linear, sparse_conv2d
from sige.profiling import Timing

__all__ = ["measure", "per_call", "repeated"]

BATCH = 2
ROWS = (288, 968)
LINEAR = ((1280, 1280), (1280, 10240), (5120, 1280), (640, 640), (640, 5120), (2560, 640))  # C, C_out
CONVOLUTIONS = ((320, 320), (640, 640), (1280, 1280), (2560, 1280))  # C, C_out of 3x3
TAPS = 9
COLD_BYTES = {"cpu": 80 << 20, "cuda": 512 << 20}  # of weights that take turns: more than a cache holds
CALLS = {"cpu": 1, "cuda": 20}  # in one timing

Function = Callable[[], object]


def measure(options: Options) -> list[Row]:
    rows = []
    for dtype in options.dtypes:
        for count in ROWS:
            rows += [_measure_linear(*shape, count, dtype, options) for shape in LINEAR]
            rows += [_measure_convolution(*shape, count, dtype, options) for shape in CONVOLUTIONS]
    return rows


def repeated(function: Function, device: torch.device) -> Function:
    """A function that makes the calls of one timing; on a GPU they are captured as a graph."""
    if device.type != "cuda":
        return function
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        function()  # libraries set themselves up, which a capture does not allow
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS["cuda"]):
            function()
    return graph.replay


def per_call(timing: Timing, device: torch.device) -> float:
    """Milliseconds of one call."""
    return timing.median / CALLS[device.type]


def _measure_linear(c: int, c_out: int, count: int, dtype: str, options: Options) -> Row:
    random = partial(torch.randn, device=options.device, dtype=named_dtype(dtype))
    rows = random(BATCH, count // BATCH, c)
    bias, residual = random(c_out), random(BATCH, count // BATCH, c_out)
    weights = _cold((c_out, c), options, dtype)
    functions: dict[str, Function] = {
        "torch": lambda: F.linear(rows, next(weights), bias),
        "torch +": lambda: F.linear(rows, next(weights), bias).add_(residual),
        "op": lambda: linear(rows, next(weights), bias),
        "op +": lambda: linear(rows, next(weights), bias, residual),
    }
    return _row("linear", c, c_out, count, dtype, functions, options)


def _measure_convolution(c: int, c_out: int, count: int, dtype: str, options: Options) -> Row:
    random = partial(torch.randn, device=options.device, dtype=named_dtype(dtype))
    active = count // BATCH
    halo = 4 * round(active**0.5) + 4  # around a square
    packed, recorded = random(BATCH, active, c), random(BATCH, halo, c)
    index = torch.randint(0, active + halo, (active, TAPS), dtype=torch.int32).to(options.device)
    gathered = random(BATCH, active, TAPS * c)
    bias, residual = random(c_out), random(BATCH, active, c_out)
    weights = _cold((c_out, TAPS * c), options, dtype)
    functions: dict[str, Function] = {
        "torch": lambda: F.linear(gathered, next(weights), bias),
        "torch +": lambda: F.linear(gathered, next(weights), bias).add_(residual),
        "op": lambda: sparse_conv2d(packed, recorded, index, next(weights), bias),
        "op +": lambda: sparse_conv2d(packed, recorded, index, next(weights), bias, residual=residual),
    }
    return _row("3x3", TAPS * c, c_out, count, dtype, functions, options)


def _cold(shape: tuple[int, int], options: Options, dtype: str) -> cycle[Tensor]:  # [C_out, C] each
    """Weights that take turns."""
    one = torch.empty(shape, dtype=named_dtype(dtype)).nbytes
    count = COLD_BYTES[options.device.type] // one + 1
    made = torch.randn(count, *shape, device=options.device, dtype=named_dtype(dtype))
    return cycle(made)


def _row(
    kind: str, k: int, c_out: int, count: int, dtype: str, functions: dict[str, Function], options: Options
) -> Row:
    calls = {name: repeated(function, options.device) for name, function in functions.items()}
    times = {name: per_call(timing, options.device) for name, timing in interleaved(calls, options).items()}
    tera = 2 * count * k * c_out / 1e12
    return {
        "dtype": dtype,
        "layer": kind,
        "M": count,
        "K": k,
        "N": c_out,
        **{f"{name} us": 1e3 * time for name, time in times.items()},
        "op/torch": times["op"] / times["torch"],
        "op +/torch +": times["op +"] / times["torch +"],
        "torch TFLOP/s": tera / times["torch"] * 1e3,
        "op TFLOP/s": tera / times["op"] * 1e3,
    }


if __name__ == "__main__":
    run(__doc__, measure)
