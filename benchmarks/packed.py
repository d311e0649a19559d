"""The packed UNet, decoder and encoder at full size against the dense ones: time, cost of recording, accuracy.

    python -m benchmarks.packed TABLE [--runs 5] [--dtype fp32] [--device cpu] [--json OUT]
    python -m benchmarks.packed shares --device cuda --dense both --dtypes bf16,fp16 --size 1024x1024 --recordings 1,3

SDXL's shapes with random weights, 512x1024, UNet batch 2; needs about 14 GB in fp32 and minutes per table. Dense and
packed passes take turns in one process; a figure is a median.

    shares    the default: UNet and decoder by the share of the picture that is edited; dense passes eager or compiled,
              packed ones layer by layer, as a program and, on a GPU, as a graph; the fastest dense way counts
    unet      the 11.6 % rectangle, dilation 0 and 1
    decoder   the same rectangle, dilation 0 and 1, batch 1
    encoder   a disc of 2 % of the pixels, dilation 0 and 1, batch 1
    curve     the UNet from 1 to 100 % active, and where it breaks even
    overhead  the extra time of recording over a dense pass, and of a blend of three recordings over one
    accuracy  error inside the mask against the dense pass: dilation 0, 1, 2, 4, statistics exact and frozen
    levels    the same error for other dilations of the three levels, and the work of each
    profile   the time of a packed UNet pass by kind of op
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import sige
from benchmarks.harness import Row, machine, print_table, write_json
from benchmarks.passes import FORECASTS, call, centred, edited, packed, recorded
from benchmarks.shares import DENSE, PARTS, Plan, dense_table, shown
from benchmarks.shares import shares as measure_shares
from sige.dtypes import DTYPE_NAMES, named_dtype
from sige.profiling import Candidate, Subject, build, count_passes, interleaved, peak_bytes

SIZE = (512, 1024)
# Positions at 64x128, 32x64 and 16x32: uniform, halved per level, and in between.
LEVEL_DILATIONS = ((0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 1, 1), (2, 1, 0), (2, 1, 1), (2, 2, 2), (4, 2, 0), (4, 2, 1))
KINDS = {  # of op, by the beginning of its name
    "linear layers": ("sige::linear", "aten::addmm", "aten::mm", "aten::bmm"),
    "convolutions, with their gathers": ("sige::sparse_conv2d",),
    "attention": ("sige::block_attention", "aten::_scaled_dot_product"),
    "other gathers and scatters": ("sige::gather", "sige::scatter", "sige::blend_rows", "aten::index"),
    "statistics": ("sige::group_stats", "sige::update_group_stats", "sige::norm_affine"),
    "layer norms": ("aten::native_layer_norm",),
    "activations": ("aten::gelu", "aten::mul", "aten::silu"),
}
CURVE = (0.01, 0.03, 0.05, 0.10, 0.20, 0.30, 0.50, 0.75, 1.0)


def rectangle() -> np.ndarray:  # bool [512, 1024], 11.6 %
    mask = np.zeros(SIZE, dtype=bool)
    mask[280:470, 590:910] = True
    return mask


def disc(ratio: float) -> np.ndarray:  # bool [512, 1024]
    y, x = np.ogrid[: SIZE[0], : SIZE[1]]
    return np.asarray((y - 250) ** 2 + (x - 520) ** 2 < ratio * SIZE[0] * SIZE[1] / np.pi)


def against_dense(subject: Subject, mask: np.ndarray, runs: int) -> list[Row]:
    """The times of the dense pass and of packed passes with dilation 1 and 0, which take turns."""
    sample = edited(subject, mask)
    with recorded(subject) as handle:
        candidates = {
            "dense": Candidate(lambda: call(subject, sample)),
            "dilation 1": Candidate(packed(handle, subject, mask, 1)),
            "dilation 0": Candidate(packed(handle, subject, mask, 0)),
        }
        times = interleaved(candidates, runs, subject.sample.device, warm_up=1)
        recording = handle.last.nbytes if handle.last else 0
    rows = []
    for name, dilation in (("dilation 1", 1), ("dilation 0", 0)):
        region = sige.Region.from_mask(mask, dilation=dilation)
        counts = count_passes(build(subject.name, SIZE), region)
        rows.append(
            {
                "model": subject.name,
                "dilation": dilation,
                "active": " ".join(f"{region.ratio(*level):.3f}" for level in subject.levels),
                "dense s": times["dense"].median / 1e3,
                "packed s": times[name].median / 1e3,
                "dense/packed": times["dense"].median / times[name].median,
                "ratio of MACs": counts.dense.all / counts.packed.all,
                "packed G": counts.packed.all / 1e9,
                "recording MiB": recording / 2**20,
                "times": times,
            }
        )
    return rows


def unet(options: argparse.Namespace) -> list[Row]:
    return against_dense(subject_of("sdxl-base", options), rectangle(), options.runs)


def decoder(options: argparse.Namespace) -> list[Row]:
    return against_dense(subject_of("vae-decoder", options), rectangle(), options.runs)


def encoder(options: argparse.Namespace) -> list[Row]:
    return against_dense(subject_of("vae-encoder", options), disc(0.02), options.runs)


def curve(options: argparse.Namespace) -> list[Row]:
    subject = subject_of("sdxl-base", options)
    with recorded(subject) as handle:
        candidates = {"dense": Candidate(lambda: call(subject, subject.sample))}
        candidates |= {f"{ratio}": Candidate(packed(handle, subject, centred(ratio, SIZE), 0)) for ratio in CURVE}
        times = interleaved(candidates, options.runs, subject.sample.device, warm_up=1)
    dense = times["dense"].median
    return [
        {
            "mask": ratio,
            "active": sige.Region.from_mask(centred(ratio, SIZE), dilation=0).ratio(*subject.levels[0]),
            "dense s": dense / 1e3,
            "packed s": times[f"{ratio}"].median / 1e3,
            "dense/packed": dense / times[f"{ratio}"].median,
            "times": times[f"{ratio}"],
        }
        for ratio in CURVE
    ]


def overhead(options: argparse.Namespace) -> list[Row]:
    subject, mask = subject_of("sdxl-base", options), rectangle()
    with recorded(subject) as handle:
        assert handle.last is not None
        recordings = [handle.last, handle.last.to(), handle.last.to()]
        three = list(zip(recordings, (3.0, -3.0, 1.0), strict=True))  # a quadratic forecast

        def record() -> None:
            with handle.record():
                call(subject, subject.sample)

        candidates = {
            "dense": Candidate(lambda: call(subject, subject.sample)),
            "record": Candidate(record),
            "one": Candidate(packed(handle, subject, mask, 1, blend=[(recordings[0], 1.0)])),
            "three": Candidate(packed(handle, subject, mask, 1, blend=three)),
        }
        times = interleaved(candidates, options.runs, subject.sample.device, warm_up=1)
        peak = peak_bytes(candidates["one"].call, subject.sample.device)
    dense = times["dense"].median
    return [
        {
            "dense s": dense / 1e3,
            "record s": times["record"].median / 1e3,
            "recording, % of dense": 100 * (times["record"].median / dense - 1),
            "one s": times["one"].median / 1e3,
            "blend of three s": times["three"].median / 1e3,
            "blending, % of dense": 100 * (times["three"].median - times["one"].median) / dense,
            "recording MiB": recordings[0].nbytes / 2**20,
            "peak GiB": peak / 2**30,
            "times": times,
        }
    ]


def accuracy(options: argparse.Namespace) -> list[Row]:
    subject, mask = subject_of("sdxl-base", options), rectangle()
    sample = edited(subject, mask)
    inside = torch.tensor(sige.Region.from_mask(mask, dilation=0).active(*subject.levels[0]))
    rows = []
    with recorded(subject) as handle:
        dense = call(subject, sample)[..., inside]
        for dilation in (0, 1, 2, 4):
            region = sige.Region.from_mask(mask, dilation=dilation)
            counts = count_passes(build(subject.name, SIZE), region).packed
            row: Row = {"dilation": dilation, "published G": counts.published / 1e9, "all G": counts.all / 1e9}
            for exact in (True, False):
                out = packed(handle, subject, mask, dilation, exact_statistics=exact)()[..., inside]
                error = ((out - dense).norm() / dense.norm()).item()
                row["error, exact" if exact else "error, frozen"] = error
            rows.append(row)
    return rows


def levels(options: argparse.Namespace) -> list[Row]:
    subject, mask = subject_of("sdxl-base", options), rectangle()
    sample = edited(subject, mask)
    inside = torch.tensor(sige.Region.from_mask(mask, dilation=0).active(*subject.levels[0]))
    rows: list[Row] = []
    with recorded(subject) as handle:
        dense = call(subject, sample)[..., inside]
        for positions in LEVEL_DILATIONS:
            region = sige.Region(SIZE, partial(_dilated_level, mask, dict(zip(subject.levels, positions, strict=True))))
            with handle.edit(region):
                out = call(subject, sample)[..., inside]
            counts = count_passes(build(subject.name, SIZE), region).packed
            error = ((out - dense).norm() / dense.norm()).item()
            rows.append({"positions": " ".join(map(str, positions)), "all G": counts.all / 1e9, "error": error})
    return rows


def profile(options: argparse.Namespace) -> list[Row]:
    """The time of every op itself in `runs` packed passes with dilation 1; the rest is Python's time."""
    subject, mask = subject_of("sdxl-base", options), rectangle()
    with recorded(subject) as handle:
        run = packed(handle, subject, mask, 1)
        run()
        begin = time.perf_counter()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            for _ in range(options.runs):
                run()
        wall = (time.perf_counter() - begin) * 1e6
    spent = dict.fromkeys([*KINDS, "rest of torch"], 0.0)
    for event in profiler.key_averages():
        kind = next((kind for kind, names in KINDS.items() if event.key.startswith(names)), "rest of torch")
        spent[kind] += event.self_cpu_time_total
    spent["Python"] = wall - sum(spent.values())
    return [
        {"kind": kind, "ms a pass": time_ / 1e3 / options.runs, "% of the pass": 100 * time_ / wall}
        for kind, time_ in spent.items()
    ]


def _dilated_level(mask: np.ndarray, positions: dict[tuple[int, int], int], height: int, width: int) -> np.ndarray:
    """The active positions of a level, dilated by the number that `positions` has for this level."""
    pooled = sige.Region.from_mask(mask, dilation=0).active(height, width)
    return sige.Region.from_mask(pooled, dilation=positions[height, width]).active(height, width)


def subject_of(name: str, options: argparse.Namespace) -> Subject:
    return build(name, SIZE, device=options.device, dtype=named_dtype(options.dtype))


def shares(options: argparse.Namespace) -> list[Row]:
    """Writes what there is after each row, so that a run that is stopped has cost nothing but its rest."""
    plan = Plan(
        device=torch.device(options.device),
        dense=options.dense,
        modes=options.modes,
        backend=options.backend,
        parts=options.parts,
        recordings=options.recordings,
        dtypes=options.dtypes or (options.dtype,),
        shares=options.shares,
        size=options.size,
        runs=options.runs,
        cap=options.cap,
        tiny=options.tiny,
    )

    def keep(rows: list[Row], notes: list[str]) -> None:
        if options.json:
            settings = {"table": "shares"} | {key: value for key, value in asdict(plan).items() if key != "began"}
            write_json(options.json, {"machine": machine(), "settings": settings, "rows": rows, "notes": notes})

    rows, notes = measure_shares(plan, keep)
    if rows:
        print_table(dense_table(rows))
    for note in notes:
        print(note)
    return shown(rows)


TABLES = {
    table.__name__: table for table in (shares, unet, decoder, encoder, curve, overhead, accuracy, levels, profile)
}


def _list(kind: Callable[[str], Any], allowed: Sequence[Any] = ()) -> Callable[[str], tuple[Any, ...]]:
    """Reads values between commas."""

    def read(text: str) -> tuple[Any, ...]:
        values = tuple(kind(word) for word in text.split(","))
        if unknown := [value for value in values if allowed and value not in allowed]:
            expected = ", ".join(map(str, allowed))
            raise argparse.ArgumentTypeError(f"got {unknown[0]}, expected some of {expected}, with commas between them")
        return values

    return read


def size_of(text: str) -> tuple[int, int]:
    """Height and width of a flag, as 512x1024."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected height x width, as 1024x1024")
    return int(height), int(width)


def _share(text: str) -> float:
    share = float(text)
    if not 0 < share <= 100:
        raise argparse.ArgumentTypeError(f"got {text}, expected a percentage above 0 and up to 100")
    return share


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.packed", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("table", nargs="?", choices=TABLES, default="shares", help="which table to make (default: shares)")
    add("--runs", type=int, default=5, help="counted runs per figure, after one to warm up (shares: after four)")
    add("--dtype", default="fp32", choices=DTYPE_NAMES)
    add("--device", default="cpu", help="cpu (default) or cuda")
    add("--json", type=Path, metavar="OUT", help="write figures, machine and settings to OUT")
    add = parser.add_argument_group("of the table shares").add_argument
    add("--dense", choices=DENSE, default="eager", help="the dense passes to compare with (default: eager)")
    add("--modes", type=_list(str), default=Plan.modes, help="of torch.compile (default: default,reduce-overhead)")
    add("--backend", default="inductor", help="of torch.compile; aot_eager compiles nothing, for dry runs")
    add("--parts", type=_list(str, tuple(PARTS)), default=Plan.parts, help="unet,decoder")
    add("--recordings", type=_list(int, tuple(FORECASTS)), default=(1,), help="how many a pass reads: 1,2,3")
    add("--dtypes", type=_list(str, DTYPE_NAMES), help="several, in place of --dtype")
    add("--shares", type=_list(_share), default=Plan.shares, help="%% of the picture (default: 1,5,10,20,40)")
    add("--size", type=size_of, default=SIZE, help="height x width of the picture (default: 512x1024)")
    add("--cap", type=float, default=float("inf"), metavar="SECONDS", help="begin nothing new after this time")
    add("--tiny", action="store_true", help="the same layers with few channels, for dry runs")
    options = parser.parse_args(arguments)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("--device cuda: this torch sees no GPU, take --device cpu")
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    return options


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    facts = machine()
    print(", ".join(f"{name} {value}" for name, value in facts.items() if name != "backends"))
    rows = TABLES[options.table](options)
    if not rows:
        raise SystemExit("error: no row was measured in time: raise --cap")
    print_table([{key: value for key, value in row.items() if key != "times"} for row in rows])
    if options.json and options.table != "shares":
        settings = {"table": options.table, "runs": options.runs, "dtype": options.dtype, "size": SIZE}
        write_json(options.json, {"machine": facts, "settings": settings, "rows": rows})


if __name__ == "__main__":
    main()
