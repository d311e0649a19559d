"""Token merging (ToMe) by ratio: time, memory and work of a dense UNet pass, and how close whole edits stay.

    python -m benchmarks.tome [--tables sd15-512 sd15-1024 sdxl-1024 quality] [--runs 5] [--level N] [--json OUT]

    sd15-512, sd15-1024, sdxl-1024    random weights, fp32, batch 2: seconds, peak memory, multiply-accumulates
    quality                           50 held-out edits with the embedded model: PSNR inside the mask against ratio 0

Passes of all ratios take turns; a figure is a median. One model is in memory at a time: SDXL takes about 13 GB, SD 1.5
5 GB. Tables of a JSON that is there already are kept: make one table in a sitting. `--count` only counts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import Row, machine, print_table, write_json
from benchmarks.quality.bench import Bench, settings_of
from benchmarks.quality.edits import SETS
from benchmarks.quality.rivals import TokenMerging
from benchmarks.quality.table import summarise
from sdxl.checkpoint.embedded import embedded_weights
from sige import tome
from sige.profiling import Candidate, MacCount, Subject, build, count_macs, interleaved, peak_bytes

RATIOS = (0.0, 0.25, 0.5, 0.75)
PASSES = {"sd15-512": ("sd15", 512), "sd15-1024": ("sd15", 1024), "sdxl-1024": ("sdxl-base", 1024)}
QUALITY = "quality"
FINEST = 2  # level of the embedded model that has attention


@torch.no_grad()
def passes(name: str, options: argparse.Namespace) -> list[Row]:
    """A row for each ratio of one model: its work, and, unless only that is asked for, its time and memory."""
    model, side = PASSES[name]
    counts = {ratio: counted(build(model, (side, side)), ratio, options.level) for ratio in RATIOS}
    rows: list[Row] = [
        {
            "table": name,
            "ratio": ratio,
            "G MACs": count.all / 1e9,
            "G MACs of attention": (count.all - count.published) / 1e9,
            "MACs, of ratio 0": count.all / counts[0.0].all,
        }
        for ratio, count in counts.items()
    ]
    return rows if options.count else [row | cost for row, cost in zip(rows, timed(model, side, options), strict=True)]


def counted(subject: Subject, ratio: float, level: int | None) -> MacCount:
    """The work of one pass."""
    tome.apply(subject.target, ratio, max_downsample=level)
    with count_macs(subject.module) as macs:
        subject()
    return macs


def timed(model: str, side: int, options: argparse.Namespace) -> list[Row]:
    """Time and memory of a pass at each ratio."""
    subject = build(model, (side, side), device="cpu")

    def merging(ratio: float) -> Callable[[], object]:
        return lambda: tome.apply(subject.target, ratio, max_downsample=options.level)

    candidates = {str(ratio): Candidate(subject, merging(ratio)) for ratio in RATIOS}
    times = interleaved(candidates, options.runs, torch.device("cpu"), warm_up=1)
    rows = []
    for ratio in RATIOS:
        merging(ratio)()
        peak = peak_bytes(subject, torch.device("cpu"))
        time = times[str(ratio)]
        share = time.median / times["0.0"].median
        rows.append({"seconds": time.median / 1e3, "time, of ratio 0": share, "peak GiB": peak / 2**30, "times": time})
    return rows


def quality(options: argparse.Namespace) -> list[Row]:
    """A row for each ratio and level: PSNR inside the mask against the dense edit with the same seed."""
    edits = SETS[options.set](options.edits, 256)
    weights = embedded_weights()
    bench = Bench(weights, edits, settings_of(weights, edits, steps=30, scale=4.0), options.cache)
    level = FINEST if options.level is None else options.level
    rows = []
    for ratio in RATIOS[1:]:
        found = summarise(bench.measure(TokenMerging(ratio, level)))
        assert found is not None
        rows.append(
            {
                "table": f"{QUALITY}, set {options.set}",
                "level": level,
                "ratio": ratio,
                "PSNR": found.psnr,
                "10th pct": found.psnr_low,
                "worst": found.psnr_worst,
                "MACs, of ratio 0": found.work,
            }
        )
        print_table(rows[-1:])
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    kept: dict[str, Any] = json.loads(options.json.read_text()) if options.json and options.json.is_file() else {}
    tables: dict[str, Any] = kept.get("tables", {})
    for name in options.tables:
        rows = quality(options) if name == QUALITY else passes(name, options)
        print_table([{key: value for key, value in row.items() if key != "times"} for row in rows])
        key = name if name != QUALITY else f"{QUALITY}-{options.set}"
        key += "" if options.level is None else f"-level-{options.level}"
        tables[key] = {"measured": machine(), "runs": options.runs, "rows": rows}
        if options.json:  # after each table: one takes minutes
            write_json(options.json, {"tables": tables})


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tome", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--tables", nargs="+", choices=[*PASSES, QUALITY], default=[*PASSES, QUALITY], metavar="NAME", help="which")
    add("--runs", type=int, default=5, help="counted passes per ratio, after one to warm up")
    add("--level", type=int, help="the coarsest that merges (default: the finest with attention)")
    add("--count", action="store_true", help="only count multiply-accumulates, on the meta device")
    add("--edits", type=int, default=50, help="of the table quality")
    add("--set", choices=list(SETS), default="A", help="which edits, as in benchmarks.quality")
    add("--cache", type=Path, default=Path("out/quality"), metavar="FOLDER", help="keeps the dense results")
    add("--json", type=Path, metavar="OUT", help="adds the tables to OUT")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
