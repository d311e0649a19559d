"""What a packed pass asks of a GPU, predicted without one: launches, bytes, FLOPs and time by kind of op, on an H200.

    python -m benchmarks.roofline [--model sdxl-base] [--ratio 0.1] [--terms 1] [--dilation 0] [--json FILE]

Without --model and --terms: SDXL's UNet with one and three recordings, and the VAE's decoder. The passes run on fake
CUDA tensors (benchmarks/steady.py), and benchmarks/launches.py says what each op launches. Nothing here is measured:
docs/gpu-roofline.md says what the figures can and cannot show.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.fake_cuda import GuardError
from benchmarks.harness import Row, machine, print_table, write_json
from benchmarks.launches import Kernel, kernels_of
from benchmarks.op_log import OpLog
from benchmarks.steady import FORECASTS, Setting, Steady, steady_passes
from sige.profiling import MODELS

__all__ = ["H200", "Gpu", "Line", "Prediction", "budget_of", "name_of", "named", "predict"]

ALL = {"sdxl-base": (1, 3), "vae-decoder": (1,)}  # model -> numbers of recordings


@dataclass(frozen=True)
class Gpu:
    """The ceilings of a GPU, as far as a prediction needs them."""

    name: str
    multiprocessors: int
    product_rate: float  # FLOP/s of a bf16 product that fills the chip
    attention_rate: float  # FLOP/s of FlashAttention 2, which is what torch's SDPA runs
    bandwidth: float  # bytes/s of a kernel that only reads and writes
    clock: float  # Hz, of the clocks that the plan of row_product counts
    launch: float  # s that a kernel costs at least, however small, where it waits for the one before it
    start: float  # s that a kernel takes beside its work: its blocks begin, and the last ones end alone


# The data sheet of the H200 SXM says 989 TFLOP/s dense in bf16 and 4.8 TB/s. Large products reach about 80 % of the
# former, large copies 90 % of the latter. FlashAttention 2 was made for the A100 and reaches about 400 TFLOP/s.
H200 = Gpu("H200", 132, 790e12, 400e12, 4.3e12, 1.83e9, 2.2e-6, 1.2e-6)

# Tiles of cuBLAS: rows, columns, and the share of the product's rate that a multiprocessor reaches with them. A small
# tile reads its operands more often for each FLOP. The shares are estimates.
TILES = ((64, 64, 0.45), (64, 128, 0.6), (128, 64, 0.6), (128, 128, 0.8), (64, 256, 0.72), (128, 256, 0.95))
SPLITS = (1, 2, 3, 4, 6, 8)  # parts of the depth that run side by side, and are added afterwards
LEAST_DEPTH = 256  # of a part
ATTENTION_TILE = 128  # queries, and keys, that a block works on at a time


# ---- the time of a kernel -------------------------------------------------------------------------------------------


def seconds(kernel: Kernel, gpu: Gpu) -> float:
    """The predicted time: memory or arithmetic, whichever takes longer, and never less than a launch."""
    work = kernel.nbytes / gpu.bandwidth
    if kernel.product:
        work = max(work, product_seconds(*kernel.product, gpu))
    if kernel.attention:
        work = max(work, attention_seconds(*kernel.attention, gpu))
    work = max(work, kernel.clocks / gpu.clock, kernel.attended / gpu.attention_rate)
    return max(work + kernel.last / gpu.clock + gpu.start, gpu.launch)


def floor(kernel: Kernel, gpu: Gpu) -> float:
    """The time of the same work without launches, tails and half-filled tiles: no kernel can be faster."""
    return max(kernel.nbytes / gpu.bandwidth, kernel.flops / gpu.product_rate)


def product_seconds(rows: int, columns: int, depth: int, gpu: Gpu) -> float:
    """The time of the best tile and the best split: whole waves of tiles run, also where the last is half empty."""
    splits = [parts for parts in SPLITS if parts == 1 or depth // parts >= LEAST_DEPTH]
    return min(_tiled(rows, columns, depth, tile, parts, gpu) for tile in TILES for parts in splits)


def _tiled(rows: int, columns: int, depth: int, tile: tuple[int, int, float], parts: int, gpu: Gpu) -> float:
    high, wide, share = tile
    blocks = math.ceil(rows / high) * math.ceil(columns / wide) * parts
    flops = 2 * high * wide * depth / parts
    time = math.ceil(blocks / gpu.multiprocessors) * flops / (gpu.product_rate / gpu.multiprocessors * share)
    if parts > 1:  # fp32 sums are written and read once more, by another kernel
        time += gpu.start + 8 * rows * columns * parts / gpu.bandwidth
    return time


def attention_seconds(blocks: int, queries: int, keys: int, size: int, gpu: Gpu) -> float:  # blocks: batch * heads
    """The time of whole waves of tiles of queries; each runs over all keys."""
    tiles = blocks * math.ceil(queries / ATTENTION_TILE)
    seen = math.ceil(keys / ATTENTION_TILE) * ATTENTION_TILE
    flops = 4 * ATTENTION_TILE * seen * size
    return math.ceil(tiles / gpu.multiprocessors) * flops / (gpu.attention_rate / gpu.multiprocessors)


# ---- the pass -------------------------------------------------------------------------------------------------------


@dataclass
class Line:
    """The sums of one kind of op."""

    launches: int = 0
    seconds: float = 0.0
    floor: float = 0.0  # seconds
    flops: int = 0
    nbytes: int = 0

    def add(self, kernel: Kernel, gpu: Gpu) -> None:
        self.launches += 1
        self.seconds += seconds(kernel, gpu)
        self.floor += floor(kernel, gpu)
        self.flops += kernel.flops
        self.nbytes += kernel.nbytes

    def row(self, kind: str) -> Row:
        """The line of the printed table."""
        return {
            "kind": kind,
            "launches": self.launches,
            "predicted ms": round(self.seconds * 1e3, 3),
            "floor ms": round(self.floor * 1e3, 3),
            "GFLOP": round(self.flops / 1e9, 1),
            "GB": round(self.nbytes / 1e9, 3),
        }


@dataclass
class Prediction:
    """A steady pass as a GPU would run it."""

    total: Line = field(default_factory=Line)
    kinds: dict[str, Line] = field(default_factory=dict)  # the longest first
    faults: dict[str, int] = field(default_factory=dict)  # syncs, copies between devices, ops on the CPU

    def rows(self) -> list[Row]:
        return [*(line.row(kind) for kind, line in self.kinds.items()), self.total.row("total")]


def predict(log: OpLog, gpu: Gpu = H200) -> Prediction:
    """Launches, time and work of the pass by kind of op."""
    prediction = Prediction(faults={kind: log.count(kind) for kind in ("sync", "copy", "cpu")})
    for kernel in _kernels(log):
        prediction.total.add(kernel, gpu)
        prediction.kinds.setdefault(kernel.kind, Line()).add(kernel, gpu)
    prediction.kinds = dict(sorted(prediction.kinds.items(), key=lambda item: -item[1].seconds))
    return prediction


def budget_of(log: OpLog) -> dict[str, int]:
    """The figures of a pass that tests/models/test_launches.py holds to a budget: they need no model of a GPU."""
    kernels = list(_kernels(log))
    return {"launches": len(kernels), "bytes": sum(kernel.nbytes for kernel in kernels)}


def _kernels(log: OpLog) -> Iterable[Kernel]:
    return (kernel for call in log.calls for kernel in kernels_of(call))


# ---- the command line -----------------------------------------------------------------------------------------------


def name_of(model: str, recordings: int, graph: bool = False) -> str:
    """The name of a pass in tables and budgets."""
    return f"{model}, {recordings} recording{'s' if recordings > 1 else ''}{', graph' if graph else ''}"


def passes(options: argparse.Namespace) -> dict[str, OpLog]:
    """The logs of the passes that the options ask for, by name."""
    logs: dict[str, OpLog] = {}
    for model in [options.model] if options.model else ALL:
        counts = (options.terms,) if options.terms else ALL.get(model, (1,))
        setting = Setting(model, options.size, options.ratio, options.dilation)
        found = steady_passes(setting, counts)
        logs |= named(model, found)
    return logs


def named(model: str, passes: dict[int, Steady]) -> dict[str, OpLog]:
    """The logs by the names of tables and budgets: the pass, and what a CUDA graph replays of it."""
    logs: dict[str, OpLog] = {}
    for count, steady in passes.items():
        logs |= {name_of(model, count): steady.layers, name_of(model, count, graph=True): steady.graph}
    return logs


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    try:
        logs = passes(options)
    except GuardError as error:
        sys.exit(f"roofline: {error}")
    predictions = {name: predict(log) for name, log in logs.items()}
    for name, prediction in predictions.items():
        print(f"{name}: {', '.join(f'{count} {kind}' for kind, count in prediction.faults.items())}")
        print_table(prediction.rows())
    settings = {"size": list(options.size), "ratio": options.ratio, "dilation": options.dilation, "dtype": "bf16"}
    if options.json:
        content = {"machine": machine(), "settings": settings, "gpu": asdict(H200), "predicted, not measured": True}
        write_json(options.json, content | {"passes": {name: asdict(one) for name, one in predictions.items()}})
    if options.budgets:
        write_json(options.budgets, settings | {"passes": {name: budget_of(log) for name, log in logs.items()}})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", choices=MODELS, help="one model only")
    parser.add_argument("--terms", type=int, choices=FORECASTS, help="recordings that a pass reads")
    parser.add_argument("--size", type=_size, default=(1024, 1024), metavar="HxW", help="of the picture: 1024x1024")
    parser.add_argument("--ratio", type=float, default=0.1, help="of the picture that is active: 0.1")
    parser.add_argument("--dilation", type=int, default=0, help="of the mask, in positions: 0")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the predictions to FILE")
    parser.add_argument("--budgets", type=Path, metavar="FILE", help="write the budgets of the tests to FILE")
    return parser


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected height and width such as 512x1024")
    return int(height), int(width)


if __name__ == "__main__":
    main()
