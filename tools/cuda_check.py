"""Compiles every CUDA kernel the way a release does, and reads the machine code that comes out.

Prints, per kernel and architecture, registers, shared memory, spills, instructions, and the widths of global loads and
stores; fails on a compiler warning and on what `cuda_rules.py` forbids. Needs nvcc and nvdisasm, no GPU.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from os import environ
from pathlib import Path

from cuda_rules import KernelReport, findings, stale_entries
from native_build import DEFAULT_CUDA_ARCHS, gencode_flags
from sass import KernelCode, dynamic_shared_users, find_nvdisasm, read_cubin

SOURCES = Path(__file__).resolve().parent.parent / "csrc"
# Those of a release: what another architecture compiles to says nothing about it. A release has sm_90 and not sm_90a,
# whose code runs on Hopper only: the newest architecture is also built as PTX, for GPUs that are yet to come. mma and
# cp.async are in both; wgmma and setmaxnreg are in sm_90a alone.
ARCHITECTURES = tuple(DEFAULT_CUDA_ARCHS.split(";"))
PARALLEL = 2

# ptxas -v, per kernel: the entry it compiles, then the stack frame, then the registers.
ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(sm_\w+)'")
FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USAGE = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")
WARNING = re.compile(r"\b(warning|error)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Tools:
    """The programs that the check runs."""

    nvcc: str
    nvdisasm: str


@dataclass(frozen=True)
class MachineCode:
    """What a compiled file holds: the code by architecture and mangled name, and who uses dynamic shared memory."""

    kernels: dict[tuple[str, str], KernelCode]
    dynamic_shared: set[str]


@dataclass(frozen=True)
class FileReport:
    """One compiled file: its kernels, and the compiler's warnings and errors."""

    file: str
    seconds: float
    kernels: list[KernelReport]
    complaints: str  # empty when the file compiled without a warning


class MissingToolError(Exception):
    """Raised when a program that the check needs is not installed; the message says how to get it."""


def find_tools() -> Tools:
    """nvcc and nvdisasm."""
    nvcc = find_nvcc()
    if nvcc is None:
        raise MissingToolError("nvcc not found: install the CUDA toolkit 12.8 or newer, or set NVCC or CUDA_HOME")
    nvdisasm = find_nvdisasm(nvcc)
    if nvdisasm is None:
        raise MissingToolError(
            "nvdisasm not found: pip install -c constraints.txt nvidia-cuda-nvdisasm, or set NVDISASM"
        )
    return Tools(nvcc, nvdisasm)


def find_nvcc() -> str | None:
    """Path of nvcc: $NVCC, the PATH, $CUDA_HOME, the usual place."""
    home = environ.get("CUDA_HOME", "/usr/local/cuda")
    candidates = (environ.get("NVCC"), "nvcc", f"{home}/bin/nvcc", "/usr/local/bin/nvcc")
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
    name = name.replace("__nv_bfloat16", "bf16").replace("__half", "fp16").replace("> >", ">>")
    return re.sub(r"\(.*$", "", name.removeprefix("void "))


def parse_ptxas(file: str, output: str, machine: MachineCode) -> list[KernelReport]:
    """Kernel reports of one file, from its `ptxas -v` output and its machine code."""
    reports = []
    sections = ENTRY.split(output)[1:]
    entries = list(zip(sections[0::3], sections[1::3], sections[2::3], strict=True))
    names = short_names([symbol for symbol, _, _ in entries])
    for symbol, arch, text in entries:
        frame, usage, shared = FRAME.search(text), USAGE.search(text), SHARED.search(text)
        code = machine.kernels.get((arch, symbol))
        if not frame or not usage or not code:
            source = "ptxas" if code else "nvdisasm"
            raise RuntimeError(f"{file}: {source} said nothing readable about {names[symbol]} on {arch}:\n{text}")
        stack, stores, loads = map(int, frame.groups())
        reports.append(
            KernelReport(
                file,
                names[symbol],
                arch,
                registers=int(usage.group(1)),
                shared=int(shared.group(1)) if shared else 0,
                stack=stack,
                spill_stores=stores,
                spill_loads=loads,
                code=code,
                uses_dynamic_shared=symbol in machine.dynamic_shared,
            )
        )
    return sorted(reports, key=lambda report: (report.kernel, report.arch))


def read_machine_code(tools: Tools, folder: Path) -> MachineCode:
    """The cubins and the PTX that `nvcc --keep` left in a folder."""
    kernels = {}
    for cubin in sorted(folder.glob("*.cubin")):
        arch, codes = read_cubin(tools.nvdisasm, cubin)
        kernels.update({(arch, symbol): code for symbol, code in codes.items()})
    users = [dynamic_shared_users(ptx.read_text()) for ptx in sorted(folder.glob("*.ptx"))]
    return MachineCode(kernels, set().union(*users))


def compile_file(tools: Tools, source: Path, folder: Path, archs: Sequence[str] = ARCHITECTURES) -> FileReport:
    """Compiles one file for every architecture, and reads what ptxas prints and what nvcc keeps."""
    flags = ["-O3", "-std=c++17", "-Werror", "all-warnings", "-Xptxas", "-v", "-I", str(SOURCES)]
    kept = folder / source.stem
    kept.mkdir()
    # -fatbin compiles for GPUs only; warnings in host code appear all the same.
    command = [tools.nvcc, *flags, *gencode_flags(archs), "--keep", "--keep-dir", str(kept), "-fatbin", str(source)]
    start = time.perf_counter()
    done = subprocess.run([*command, "-o", str(kept / "object.fatbin")], capture_output=True, text=True)
    seconds = time.perf_counter() - start
    output = done.stdout + done.stderr
    if done.returncode:
        return FileReport(source.name, seconds, [], output.strip() or f"nvcc exited {done.returncode}")
    complaints = [line for line in output.splitlines() if WARNING.search(line)]
    kernels = parse_ptxas(source.name, output, read_machine_code(tools, kept))
    shutil.rmtree(kept)
    return FileReport(source.name, seconds, kernels, "\n".join(complaints))


def widths(counts: dict[int, int]) -> str:
    """Accesses by their width: `4x128 2x32`."""
    return " ".join(f"{count}x{bits}" for bits, count in sorted(counts.items(), reverse=True)) or "-"


def row(kernel: KernelReport) -> tuple[str, ...]:
    """A kernel's line of the table."""
    code = kernel.code
    counts = (kernel.registers, kernel.shared, code.local, code.instructions, code.calls, code.tensor)
    return (kernel.file, kernel.kernel, kernel.arch, *map(str, counts), widths(code.loads), widths(code.stores))


def table(reports: Sequence[FileReport]) -> str:
    """The kernels as text, one line each."""
    head = ("file", "kernel", "arch", "regs", "shared", "local", "instrs", "calls", "tensor", "loads", "stores")
    rows = [head, *(row(kernel) for report in reports for kernel in report.kernels)]
    columns = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(cells, columns, strict=True)) for cells in rows]
    return "\n".join(line.rstrip() for line in lines)


def failures(reports: Sequence[FileReport], everything: bool) -> list[str]:
    """All that makes the check fail, a sentence (or a compiler message) each; `everything`: no file was left out."""
    kernels = [kernel for report in reports for kernel in report.kernels]
    found = [f"{report.file}: {report.complaints}" for report in reports if report.complaints]
    found += [sentence for kernel in kernels for sentence in findings(kernel)]
    return found + (stale_entries(kernels) if everything else [])


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the check and returns its exit status: 0 clean, 1 a warning, an error or a finding, 2 a missing tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", type=Path, help="files to compile (default: every csrc/*.cu)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the reports to this file")
    options = parser.parse_args(arguments)

    try:
        tools = find_tools()
    except MissingToolError as error:
        print(f"cuda-check: {error}", file=sys.stderr)
        return 2
    sources = options.sources or sorted(SOURCES.glob("*.cu"))
    with tempfile.TemporaryDirectory(prefix="sige_cuda_check_") as folder:
        with ThreadPoolExecutor(PARALLEL) as pool:
            reports = list(pool.map(lambda source: compile_file(tools, source, Path(folder)), sources))

    print(table(reports))
    print("\n" + "\n".join(f"{report.seconds:6.1f} s  {report.file}" for report in reports))
    if options.json:
        options.json.write_text(json.dumps([asdict(report) for report in reports], indent=2) + "\n")
    problems = failures(reports, everything=not options.sources)
    print("\n".join(["", *problems]) if problems else "\nno warning, and every rule of tools/cuda_rules.py holds")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
