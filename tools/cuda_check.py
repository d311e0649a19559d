"""Compiles every CUDA kernel the way a release does and reports what each one costs.

Prints, per kernel and architecture, registers, shared memory, stack and spills; fails on a compiler warning
and on a spill that `ALLOWED_SPILLS` does not explain. Needs nvcc, no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

SOURCES = Path(__file__).resolve().parent.parent / "csrc"
ARCHITECTURES = ("80", "90a")
PARALLEL = 2

# Kernels that may spill, by a pattern of architecture and short name ("sm_80 some_kernel<.*>"), with the
# reason why that is better than not spilling.
ALLOWED_SPILLS: dict[str, str] = {}

# ptxas -v, per kernel: the entry it compiles, then the stack frame, then the registers.
ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(sm_\w+)'")
FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USAGE = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")
WARNING = re.compile(r"\b(warning|error)\b", re.IGNORECASE)


@dataclass(frozen=True)
class KernelReport:
    """The resources that ptxas reports for one kernel on one architecture, in bytes except for the registers."""

    file: str
    kernel: str
    arch: str
    registers: int
    shared: int  # static; dynamic shared memory is the launcher's choice
    stack: int
    spill_stores: int
    spill_loads: int

    @property
    def spill_is_allowed(self) -> bool:
        """True without a spill, or with one that `ALLOWED_SPILLS` explains."""
        if not self.spill_stores and not self.spill_loads:
            return True
        return any(re.fullmatch(pattern, f"{self.arch} {self.kernel}") for pattern in ALLOWED_SPILLS)


@dataclass(frozen=True)
class FileReport:
    """One compiled file: its kernels, and the compiler's warnings and errors."""

    file: str
    seconds: float
    kernels: list[KernelReport]
    complaints: str  # empty when the file compiled without a warning


def find_nvcc() -> str | None:
    """Path of nvcc: $NVCC, the PATH, $CUDA_HOME, the usual place."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    candidates = (os.environ.get("NVCC"), "nvcc", f"{home}/bin/nvcc", "/usr/local/bin/nvcc")
    return next((path for name in candidates if name and (path := shutil.which(name))), None)


def short_names(symbols: Sequence[str]) -> dict[str, str]:
    """Mangled symbol -> name without namespaces and parameters; without c++filt, the mangled symbol itself."""
    filt = shutil.which("c++filt")
    if not symbols or not filt:
        return {symbol: symbol for symbol in symbols}
    output = subprocess.run([filt], input="\n".join(symbols), capture_output=True, text=True, check=True).stdout
    return dict(zip(symbols, map(shorten, output.splitlines()), strict=True))


def shorten(name: str) -> str:
    """`void sige::cuda::(anonymous namespace)::f<float, 4, (sige::Activation)1>(P)` -> `f<float, 4, 1>`."""
    name = name.replace("(anonymous namespace)::", "")
    name = re.sub(r"\((?:bool|int|\w+::\w+)\)(-?\d+)", r"\1", name)
    name = re.sub(r"\b(?:\w+::)+", "", name)
    name = name.replace("__nv_bfloat16", "bf16").replace("__half", "fp16")
    return re.sub(r"\(.*$", "", name.removeprefix("void "))


def parse_ptxas(file: str, output: str) -> list[KernelReport]:
    """Kernel reports of one file's `ptxas -v` output."""
    reports = []
    sections = ENTRY.split(output)[1:]
    entries = list(zip(sections[0::3], sections[1::3], sections[2::3], strict=True))
    names = short_names([symbol for symbol, _, _ in entries])
    for symbol, arch, text in entries:
        frame, usage, shared = FRAME.search(text), USAGE.search(text), SHARED.search(text)
        if not frame or not usage:
            raise RuntimeError(f"{file}: ptxas said nothing readable about {names[symbol]} on {arch}:\n{text}")
        stack, stores, loads = map(int, frame.groups())
        static_shared = int(shared.group(1)) if shared else 0
        reports.append(
            KernelReport(file, names[symbol], arch, int(usage.group(1)), static_shared, stack, stores, loads)
        )
    return sorted(reports, key=lambda report: (report.kernel, report.arch))


def compile_file(nvcc: str, source: Path, folder: Path) -> FileReport:
    """Compiles one file for every architecture and reads what ptxas prints."""
    code = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in ARCHITECTURES]
    flags = ["-O3", "-std=c++17", "-Werror", "all-warnings", "-Xptxas", "-v", "-I", str(source.parent)]
    target = folder / f"{source.stem}.o"
    start = time.perf_counter()
    done = subprocess.run([nvcc, *flags, *code, "-c", str(source), "-o", str(target)], capture_output=True, text=True)
    seconds = time.perf_counter() - start
    output = done.stdout + done.stderr
    if done.returncode:
        return FileReport(source.name, seconds, [], output.strip() or f"nvcc exited {done.returncode}")
    complaints = [line for line in output.splitlines() if WARNING.search(line)]
    return FileReport(source.name, seconds, parse_ptxas(source.name, output), "\n".join(complaints))


def table(reports: Sequence[FileReport]) -> str:
    """The kernels as text, one line each."""
    rows = [("file", "kernel", "arch", "regs", "shared", "stack", "spill st/ld")]
    for kernel in (kernel for report in reports for kernel in report.kernels):
        spill = f"{kernel.spill_stores}/{kernel.spill_loads}"
        rows.append(
            (
                kernel.file,
                kernel.kernel,
                kernel.arch,
                str(kernel.registers),
                str(kernel.shared),
                str(kernel.stack),
                spill,
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def failures(reports: Sequence[FileReport]) -> list[str]:
    """Everything that makes the check fail, one line (or compiler message) each."""
    found = [f"{report.file}: {report.complaints}" for report in reports if report.complaints]
    for kernel in (kernel for report in reports for kernel in report.kernels):
        if not kernel.spill_is_allowed:
            found.append(
                f"{kernel.file}: {kernel.kernel} spills on {kernel.arch}: "
                f"{kernel.spill_stores} bytes of stores, {kernel.spill_loads} bytes of loads"
            )
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the check and returns its exit status: 0 clean, 1 a warning, an error or a spill, 2 no nvcc."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", type=Path, help="files to compile (default: every csrc/*.cu)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the reports to this file")
    options = parser.parse_args(arguments)

    nvcc = find_nvcc()
    if nvcc is None:
        print(
            "cuda-check: nvcc not found: install the CUDA toolkit 12.8 or newer, or set NVCC or CUDA_HOME",
            file=sys.stderr,
        )
        return 2
    sources = options.sources or sorted(SOURCES.glob("*.cu"))
    with tempfile.TemporaryDirectory(prefix="sige_cuda_check_") as folder:
        with ThreadPoolExecutor(PARALLEL) as pool:
            reports = list(pool.map(lambda source: compile_file(nvcc, source, Path(folder)), sources))

    print(table(reports))
    print("\n" + "\n".join(f"{report.seconds:6.1f} s  {report.file}" for report in reports))
    if options.json:
        options.json.write_text(json.dumps([asdict(report) for report in reports], indent=2) + "\n")
    problems = failures(reports)
    print("\n".join(["", *problems]) if problems else "\nno warning, no spill")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
