"""The slowest kernels of a packed pass, and what Nsight Compute says of them.

    python -m benchmarks.kernels [--part unet] [--dtype bf16] [--share 10] [--device cuda] [--json OUT] [--ncu FOLDER]

Passes run layer by layer, so that each kernel is launched by itself. On the CPU ops stand for kernels. With --ncu the
command runs itself under ncu, once per kernel, and leaves a text in the folder for each; clocks stay as they are.
"""

from __future__ import annotations

import argparse
import glob
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from benchmarks.harness import Row, machine, print_table, write_json
from benchmarks.packed import size_of
from benchmarks.passes import centred, packed, recorded
from benchmarks.shares import PARTS, TINY
from sige.dtypes import DTYPE_NAMES, named_dtype
from sige.profiling import build

__all__ = ["base_name", "main", "ncu_command", "slowest"]

NCU_PLACES = ("/usr/local/cuda/bin/ncu", "/opt/nvidia/nsight-compute/*/ncu")
COPIES = ("Memcpy", "Memset")  # which are no kernels
LAUNCHES = 3  # of each kernel that ncu looks at
OWN_FLAGS = ("part", "dtype", "share", "size", "device")


def base_name(kernel: str) -> str:
    """The name of a kernel's function alone, as ncu's filter takes it.

    >>> base_name("void at::native::vectorized_elementwise_kernel<4, at::Op<float>>(int, float*)")
    'vectorized_elementwise_kernel'
    >>> base_name("void (anonymous namespace)::gather_kernel<int>(sige::Params)")
    'gather_kernel'
    >>> base_name("nvjet_hsh_128x64_64x6_1x2_h_bz_NNT")
    'nvjet_hsh_128x64_64x6_1x2_h_bz_NNT'
    """
    name = kernel.replace("(anonymous namespace)", "anonymous").removeprefix("void ")
    cut = min((at for at in (name.find("<"), name.find("(")) if at > 0), default=len(name))
    return name[:cut].split("::")[-1].strip()


def slowest(options: argparse.Namespace) -> list[Row]:
    """The kernels of a packed pass by their time, the slowest first."""
    passes = 1 if options.under_ncu else 3
    device = torch.device(options.device)
    subject = build(
        PARTS[options.part],
        options.size,
        device=device,
        dtype=named_dtype(options.dtype),
        changes=TINY[options.part] if options.tiny else None,
    )
    with recorded(subject) as handle:
        run = packed(handle, subject, centred(options.share / 100, options.size), 0)
        for _ in range(2):
            run()
        if options.under_ncu:
            _marked(run)
            return []
        activities = [torch.profiler.ProfilerActivity.CPU]
        if device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        with torch.profiler.profile(activities=activities) as profiler:
            for _ in range(passes):
                run()
            if device.type == "cuda":
                torch.cuda.synchronize()
    return _by_time(profiler, device, passes)


def _marked(run: Any) -> None:
    """One pass that `ncu --profile-from-start off` looks at."""
    torch.cuda.synchronize()
    torch.cuda.cudart().cudaProfilerStart()
    run()
    torch.cuda.synchronize()
    torch.cuda.cudart().cudaProfilerStop()


def _by_time(profiler: Any, device: torch.device, passes: int) -> list[Row]:
    spent: dict[str, list[float]] = {}
    for event in profiler.key_averages():
        if event.device_type.name.lower() == device.type:
            time = event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
            sums = spent.setdefault(event.key, [0.0, 0])
            sums[0], sums[1] = sums[0] + time, sums[1] + event.count
    total = sum(time for time, _ in spent.values()) or 1.0
    return [
        {
            "kernel": base_name(name),
            "launches": round(count / passes),
            "us a pass": time / passes,
            "% of all": 100 * time / total,
            "name": name,
        }
        for name, (time, count) in sorted(spent.items(), key=lambda item: -item[1][0])
    ]


# ---- ncu ------------------------------------------------------------------------------------------------------------


def find_ncu() -> str | None:
    """The path of ncu."""
    found = shutil.which("ncu") or next((path for place in NCU_PLACES for path in sorted(glob.glob(place))), None)
    return found


def ncu_command(ncu: str, kernel: str, options: argparse.Namespace) -> list[str]:
    """The command that looks at some launches of one kernel in one packed pass."""
    flags = [f"--{name}={_as_text(getattr(options, name))}" for name in OWN_FLAGS]
    return [
        *(ncu, "--profile-from-start", "off", "--clock-control", "none", "--set", "detailed"),
        *("--kernel-name", f"regex:^{re.escape(kernel)}$", "--launch-count", str(LAUNCHES)),
        *(sys.executable, "-m", "benchmarks.kernels", "--under-ncu", *flags),
    ]


def _as_text(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def look(kernels: list[str], options: argparse.Namespace) -> list[Row]:
    """Runs ncu for each kernel, and says for which it gave figures."""
    ncu = find_ncu()
    if ncu is None:
        print("ncu is not on PATH: install Nsight Compute, or leave --ncu out")
        return []
    folder, rows = Path(options.ncu), []
    folder.mkdir(parents=True, exist_ok=True)
    until = perf_counter() + options.cap
    for number, kernel in enumerate(kernels, 1):
        begin = perf_counter()
        said, text = _ncu(ncu_command(ncu, kernel, options), until - begin)
        (folder / f"ncu-{number}.txt").write_text(f"{kernel}\n{text}")
        rows.append({"kernel": kernel, "ncu": said, "seconds": perf_counter() - begin})
    return rows


def _ncu(command: list[str], seconds: float) -> tuple[str, str]:
    """What became of it in a word, and all that it printed."""
    if seconds < 1:
        return "left out, the time is up", ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=_layer_by_layer())
    except subprocess.TimeoutExpired as error:
        output = error.stdout or b""
        return "took too long", output.decode() if isinstance(output, bytes) else output
    text = done.stdout + done.stderr
    refused = next(
        (line for line in text.splitlines() if "==ERROR==" in line or "No kernels were profiled" in line), ""
    )
    if done.returncode or refused:
        return refused.strip() or f"failed with status {done.returncode}", text
    return "ok", text


def _layer_by_layer() -> dict[str, str]:
    return os.environ | {"SIGE_PROGRAMS": "0"}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kernels", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    cuda = torch.cuda.is_available()
    parser.add_argument("--part", choices=list(PARTS), default="unet")
    parser.add_argument("--dtype", choices=DTYPE_NAMES, default="bf16" if cuda else "fp32")
    parser.add_argument("--share", type=float, default=10, help="%% of the picture (default: 10)")
    parser.add_argument("--size", type=size_of, default=(1024, 1024), help="height x width (default: 1024x1024)")
    parser.add_argument("--device", default="cuda" if cuda else "cpu", help="cpu or cuda")
    parser.add_argument("--slowest", type=int, default=5, help="the kernels that ncu looks at (default: 5)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all kernels and the machine to OUT")
    parser.add_argument("--ncu", metavar="FOLDER", help="look at the slowest kernels with ncu")
    parser.add_argument("--cap", type=float, default=400, metavar="SECONDS", help="for ncu (default: 400)")
    parser.add_argument("--tiny", action="store_true", help="the same layers with few channels, for dry runs")
    parser.add_argument("--under-ncu", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.device.startswith("cuda") and not cuda:
        parser.error("--device cuda: this torch sees no GPU, take --device cpu")
    return options


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> None:
    os.environ["SIGE_PROGRAMS"] = "0"
    options = _parse(arguments)
    rows = slowest(options)
    if options.under_ncu:
        return
    print_table([{key: value for key, value in row.items() if key != "name"} for row in rows[:20]])
    names = dict.fromkeys(row["kernel"] for row in rows if not row["kernel"].startswith(COPIES))
    looked = look(list(names)[: options.slowest], options) if options.ncu else []
    if looked:
        print_table(looked)
    if options.json:
        settings = {name: getattr(options, name) for name in OWN_FLAGS}
        write_json(options.json, {"machine": machine(), "settings": settings, "rows": rows, "ncu": looked})
    if any(row["ncu"] != "ok" for row in looked):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
