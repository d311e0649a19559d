"""Converting and loading a checkpoint of full size: seconds and peak memory, each in a process of its own.

    python -m benchmarks.checkpoints [--kind sdxl-base] [--folder /tmp] [--runs 3] [--json OUT]

Makes a single file of random fp16 weights with the shapes of the kind (SDXL base: 7 GB), converts it to fp32 with 1x1
convolutions (14 GB more) and loads it as fp16, with the file in the page cache and without; then removes both files.
`rss` is the peak of the whole process, `added` its growth after torch, diffusers and transformers were imported.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.harness import ROOT, Row, machine, print_table, write_json
from sdxl.checkpoint.configs import KINDS, load_shapes
from sdxl.checkpoint.header import read_header
from sdxl.checkpoint.keys import PREFIXES, make_entries
from sdxl.checkpoint.kinds import family
from sdxl.checkpoint.models import build_parts
from sdxl.checkpoint.tensors import Written, file_bytes, write_tensors
from sige.files import check_free_space

BLOCK = 4 << 20  # random values, written again and again: reading takes the same time for any values
CHILD = """
import json, re, time
{imports}
def peak():  # ru_maxrss would start at what the parent had
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
before, start = peak(), time.perf_counter()
{command}
print(json.dumps({{"seconds": time.perf_counter() - start, "rss": peak(), "added": peak() - before}}))
"""
TASKS = {
    "inspect": ("from sdxl.commands.inspect import describe", "describe({source!r})"),
    "convert to fp32": (
        "from sdxl.commands.convert import convert",
        "convert({source!r}, {target!r}, progress=False, force=True)",
    ),
    "load as fp16": (
        "import torch, diffusers, transformers\nfrom diffusers import AutoencoderKL, UNet2DConditionModel\n"
        "from transformers import CLIPTextModel\nfrom sdxl.checkpoint.load import load",
        "parts = load({source!r}, dtype=torch.float16, progress=False, tokenizers=False)",
    ),
    "load as fp16, unchecked": (
        "import torch, diffusers, transformers\nfrom diffusers import AutoencoderKL, UNet2DConditionModel\n"
        "from transformers import CLIPTextModel\nfrom sdxl.checkpoint.load import load",
        "parts = load({source!r}, dtype=torch.float16, progress=False, tokenizers=False, check_finite=False)",
    ),
}


def make_file(path: Path, kind: str) -> None:
    """Writes a file with the names, shapes and dtypes of the real one, the integer tensors included."""
    models = build_parts(load_shapes(kind).parts)
    entries = make_entries(models, PREFIXES[family(kind)])
    block = torch.randn(BLOCK, generator=torch.Generator().manual_seed(0)).mul_(0.02).half()
    tensors = {entry.file_key: Written("F16", entry.shape, partial(_values, block, entry.shape)) for entry in entries}
    positions = torch.arange(77)[None]
    tensors["position_ids"] = Written("I64", tuple(positions.shape), lambda: [positions])
    check_free_space(path, 3 * file_bytes(tensors, {}))
    write_tensors(path, tensors, {})


def _values(block: Tensor, shape: tuple[int, ...]) -> Iterator[Tensor]:
    left = torch.Size(shape).numel()
    while left > 0:
        yield block[: min(left, BLOCK)]
        left -= BLOCK


def forget(path: Path) -> None:
    """Removes the file from the page cache, so that the next read comes from the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def measure(task: str, source: Path, target: Path, cached: bool) -> dict[str, float]:
    """The seconds and peak memory of one task in a new process."""
    if not cached:
        forget(source)
    imports, command = (text.format(source=str(source), target=str(target)) for text in TASKS[task])
    child = [sys.executable, "-c", CHILD.format(imports=imports, command=command)]
    output = subprocess.run(child, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    return json.loads(output.splitlines()[-1])  # type: ignore[no-any-return]


def table(folder: Path, kind: str, runs: int) -> list[Row]:
    source, target = folder / "random.safetensors", folder / "converted.safetensors"
    make_file(source, kind)
    largest = max(stored.bytes for stored in read_header(source).tensors.values())
    rows: list[Row] = []
    for task in TASKS:
        for cached in (True, False):
            found = sorted((measure(task, source, target, cached) for _ in range(runs)), key=lambda run: run["seconds"])
            figures = {"seconds": found[len(found) // 2]["seconds"], "slowest": found[-1]["seconds"]}
            peaks = {f"{name} MB": max(run[name] for run in found) / 1e6 for name in ("rss", "added")}
            sizes = {"file GB": source.stat().st_size / 1e9, "largest tensor MB": largest / 1e6}
            rows.append({"task": task, "file": "cached" if cached else "on disk", **figures, **peaks, **sizes})
        target.unlink(missing_ok=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kind", default="sdxl-base", choices=KINDS)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="with 21 GB free")
    parser.add_argument("--runs", type=int, default=3, help="per row; the median is shown")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write figures, machine and settings to OUT")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="sige-checkpoints-") as folder:
        rows = table(Path(folder), options.kind, options.runs)
    print_table(rows)
    if options.json:
        settings = {"kind": options.kind, "runs": options.runs, "folder": str(options.folder)}
        write_json(options.json, {"machine": machine(), "settings": settings, "rows": rows})


if __name__ == "__main__":
    main()
