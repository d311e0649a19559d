"""Reads the machine code (SASS) of compiled CUDA kernels: what a kernel loads and stores, and on which units it runs.

`read_cubin` takes a cubin, as `nvcc --keep` leaves one for each architecture, and returns the code of every kernel by
its mangled name. It needs nvdisasm: the toolkit's, or the one of the package nvidia-cuda-nvdisasm.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["KernelCode", "dynamic_shared_users", "find_nvdisasm", "parse", "read_cubin"]

GLOBAL_LOADS = ("LDG", "LD", "LDGSTS")  # LD and ST are those whose address the compiler could not tell the kind of
GLOBAL_STORES = ("STG", "ST")
LOCAL = ("LDL", "STL")
TENSOR = ("HMMA", "HGMMA", "IMMA", "IGMMA", "QGMMA", "DMMA", "BMMA", "BGMMA")

SECTION = re.compile(r"^\.text\.(\S+):")
TARGET = re.compile(r"^\s*\.target\s+(sm_\w+)", re.MULTILINE)
# "/*0c20*/  @!UP0 LDG.E.128.CONSTANT R8, desc[UR12][R24.64] ;": a predicate, the operation, its suffixes
INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)((?:\.\w+)*)")


@dataclass
class KernelCode:
    """The instructions of one kernel, counted; loads and stores of global memory by their width in bits."""

    instructions: int = 0  # but for NOP
    loads: dict[int, int] = field(default_factory=dict)
    stores: dict[int, int] = field(default_factory=dict)
    local: int = 0  # loads and stores of local memory
    tensor: int = 0  # on tensor cores
    calls: int = 0  # of subroutines: a 64-bit division, a logarithm in fp64; on sm_80 also a jump to the end

    def add(self, operation: str, suffixes: str) -> None:
        self.instructions += operation != "NOP"
        self.local += operation in LOCAL
        self.tensor += operation in TENSOR
        self.calls += operation == "CALL"
        for operations, counts in ((GLOBAL_LOADS, self.loads), (GLOBAL_STORES, self.stores)):
            if operation in operations:
                width = width_of(suffixes)
                counts[width] = counts.get(width, 0) + 1


def width_of(suffixes: str) -> int:
    """The bits that one thread moves: `.E.128.CONSTANT` -> 128, `.E.U16` -> 16, `.E` -> 32."""
    found = re.search(r"\.[US]?(8|16|64|128|256)(?=\.|$)", suffixes)
    return int(found.group(1)) if found else 32


def find_nvdisasm(nvcc: str) -> str | None:
    """Path of nvdisasm: $NVDISASM, beside nvcc, the PATH, the installed package nvidia-cuda-nvdisasm."""
    beside = str(Path(nvcc).resolve().parent / "nvdisasm")
    names = [os.environ.get("NVDISASM"), beside, "nvdisasm", *_packaged()]
    return next((path for name in names if name and (path := shutil.which(name))), None)


def _packaged() -> Iterator[str]:
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations or () if spec else ():
        yield from map(str, sorted(Path(folder).glob("cu*/bin/nvdisasm"), reverse=True))


def parse(text: str) -> dict[str, KernelCode]:
    """The kernels of a disassembly, by mangled name."""
    kernels: dict[str, KernelCode] = {}
    code = KernelCode()
    for line in text.splitlines():
        if section := SECTION.match(line):
            code = kernels.setdefault(section.group(1), KernelCode())
        elif instruction := INSTRUCTION.match(line):
            code.add(*instruction.groups())
    return kernels


def read_cubin(nvdisasm: str, cubin: Path) -> tuple[str, dict[str, KernelCode]]:
    """The architecture of a cubin, such as sm_90, and its kernels by mangled name."""
    done = subprocess.run([nvdisasm, "-c", str(cubin)], capture_output=True, text=True)
    target = TARGET.search(done.stdout)
    if done.returncode or not target:
        raise RuntimeError(f"{nvdisasm} cannot read {cubin.name}: {done.stderr.strip() or 'no .target line'}")
    return target.group(1), parse(done.stdout)


def dynamic_shared_users(ptx: str) -> set[str]:
    """Mangled names of the kernels in a PTX text that use shared memory whose size the launch decides."""
    names = re.findall(r"\.extern\s+\.shared\b[^;]*?([\w$]+)\[\]\s*;", ptx)
    if not names:
        return set()
    used = re.compile("|".join(rf"(?<![\w$]){re.escape(name)}(?![\w$])" for name in names))
    entries = re.split(r"\.entry\s+([\w$]+)\s*\(", ptx)
    return {symbol for symbol, body in zip(entries[1::2], entries[2::2], strict=True) if used.search(body)}
