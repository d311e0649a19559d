"""Runs every benchmark, one after the other: `make bench`, or `python -m benchmarks [--out FOLDER] [--runs 7] …`."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

OPS = (
    "gather",
    "linear",
    "linear_stack",
    "geglu_rows",
    "time_table",
    "sparse_conv2d",
    "scatter",
    "blend_rows",
    "group_stats",
    "norm_affine",
    "block_attention",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/bench"), help="folder for one JSON per benchmark")
    parser.add_argument("--runs", type=int, default=7, help="counted runs per figure")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, for the ops")
    parser.add_argument("--dtypes", default="fp32", help="comma-separated: fp32,fp16,bf16")
    options = parser.parse_args()
    for name in OPS:
        benchmark = importlib.import_module(f"benchmarks.{name}")
        flags = [f"--runs={options.runs}", f"--device={options.device}", f"--dtypes={options.dtypes}"]
        benchmark.run(benchmark.__doc__, benchmark.measure, [*flags, f"--json={options.out / name}.json"])
    for name in ("geometry", "build"):
        print(f"{name}:")
        importlib.import_module(f"benchmarks.{name}").main([f"--json={options.out / name}.json"])
    print(f"JSON in {options.out}")


if __name__ == "__main__":
    main()
