"""The rules of `make cuda-check`, and the tables of what a kernel may do otherwise, each with its reason.

Patterns are regular expressions for a kernel's whole short name, such as `gather_kernel<bf16, 8, true, 1>`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sass import KernelCode

__all__ = ["KernelReport", "findings", "stale_entries"]

Value = TypeVar("Value")

# The most shared memory of one block, static and dynamic together.
SHARED_LIMITS = {"sm_80": 163 * 1024, "sm_86": 99 * 1024, "sm_89": 99 * 1024, "sm_90": 227 * 1024}

# Dynamic shared memory in bytes, the most where it depends on the call. The machine code does not hold it: the launcher
# chooses it. tests/test_cuda_check.py compares the numbers with the tiles of csrc/common.
DYNAMIC_SHARED = {
    r"block_attention_kernel<.*, 64>": 55_296,
    r"block_attention_kernel<.*, 128>": 71_680,
    r"block_attention_kernel<.*, 256>": 60_928,
    r"block_attention_kernel<.*, 512>": 93_696,
    r"tensor_attention_kernel<.*, TensorTile<48, 1>>": 43_008,
    r"tensor_attention_kernel<.*, TensorTile<64, 1>>": 55_296,
    r"tensor_attention_kernel<.*, TensorTile<64, 2>>": 55_296,
    r"tensor_attention_kernel<.*, TensorTile<80, 1>>": 45_056,
    r"tensor_attention_kernel<.*, TensorTile<128, 1>>": 69_632,
    r"tensor_attention_kernel<.*, TensorTile<160, 1>>": 86_016,
    r"row_product_kernel<ProductTile<128, 128, 32, 4, 2>, .*>": 81_920,
    r"row_product_kernel<ProductTile<64, 128, 64, 3, 2>, .*>": 81_920,
    r"row_product_kernel<ProductTile<64, 64, 64, 4, 3>, .*>": 73_728,
}

# Kernels that may use local memory, by architecture and name ("sm_80 some_kernel<.*>"), with the reason why that is
# better than not to.
ALLOWED_SPILLS: dict[str, str] = {}

# Kernels whose products run on tensor cores. A name that says "mma" or "tensor" claims it, too.
TENSOR_CORE_KERNELS: tuple[str, ...] = (r"row_product_kernel<.*>",)
CLAIMS_TENSOR_CORES = re.compile(r"(?i:mma|tensor)")

# Bytes of a vector, for kernels whose template arguments do not begin with an element type and a width.
VECTOR_BYTES: dict[str, int] = {
    r"row_product_kernel<.*>": 16,
    r"tensor_attention_kernel<.*>": 16,
}
ELEMENT_BYTES = {"float": 4, "fp16": 2, "bf16": 2}


@dataclass(frozen=True)
class Narrow:
    """Global accesses of a vector kernel that are narrower than its vectors: how many it has at most, and why."""

    kernel: str
    access: str  # "loads" or "stores"
    bits: int  # the widest of them
    most: int
    why: str


NARROW = (
    Narrow(r"gather_kernel<.*>", "loads", 32, 4, "entries of the index, once per row"),
    Narrow(r"scatter_rows_kernel<.*>", "loads", 32, 4, "entries of the index, once per row"),
    Narrow(r"blend_rows_kernel<.*>", "loads", 64, 12, "entries of the index, once per row; the weights, once"),
    Narrow(r"group_stats_rows_kernel<.*, SumsOut>", "loads", 64, 36, "index, once per row; fp64 sums, in last blocks"),
    Narrow(r"group_stats_rows_kernel<.*, SumsOut>", "stores", 64, 5, "fp64 sums: of 64 rows, of a chunk, of all"),
    Narrow(r"group_stats_rows_kernel<.*, Affine>", "loads", 64, 108, "the same, and the norm's parameters by channel"),
    Narrow(r"group_stats_rows_kernel<.*, Affine>", "stores", 64, 20, "fp64 sums of terms; scale and shift by channel"),
    Narrow(r"time_table_kernel<.*>", "loads", 32, 2, "two biases per column"),
    Narrow(r"time_table_kernel<.*>", "stores", 32, 1, "one element per column"),
    Narrow(r"block_attention_kernel<.*>", "loads", 32, 2, "an entry of the index per key, and of the mask per tile"),
    Narrow(r"block_attention_kernel<(fp16|bf16), .*>", "stores", 64, 16, "a thread owns four channels of the output"),
    Narrow(r"row_product_kernel<.*>", "loads", 32, 4, "entries of the index, once per row and tap"),
    Narrow(r"tensor_attention_kernel<.*>", "loads", 32, 60, "queries as tensor cores hold them, once; index and mask"),
    Narrow(r"tensor_attention_kernel<.*>", "stores", 64, 90, "outputs as tensor cores hold them, two channels; once"),
)


@dataclass(frozen=True)
class KernelReport:
    """What ptxas reports and the machine code shows of one kernel on one architecture; sizes in bytes."""

    file: str
    kernel: str
    arch: str
    registers: int
    shared: int  # static
    stack: int
    spill_stores: int
    spill_loads: int
    code: KernelCode
    uses_dynamic_shared: bool

    @property
    def vector_bits(self) -> int:
        """The width of the kernel's vectors, or 0 where it takes one element at a time."""
        listed = _entry(VECTOR_BYTES, self.kernel)
        if listed is not None:
            return listed * 8
        arguments = re.match(r"\w+<(\w+), (\d+)[,>]", self.kernel)
        if not arguments or arguments.group(1) not in ELEMENT_BYTES:
            return 0
        width = int(arguments.group(2))
        size = width * ELEMENT_BYTES[arguments.group(1)]
        return size * 8 if width > 1 and size <= 16 else 0

    @property
    def claims_tensor_cores(self) -> bool:
        name = self.kernel.partition("<")[0]
        return bool(CLAIMS_TENSOR_CORES.search(name)) or any(re.fullmatch(p, self.kernel) for p in TENSOR_CORE_KERNELS)


def findings(kernel: KernelReport) -> list[str]:
    """One sentence for each rule that a kernel breaks."""
    found = [*_local_memory(kernel), *_shared_memory(kernel), *_tensor_cores(kernel), *_vectors(kernel)]
    return [f"{kernel.file}: {kernel.kernel} on {kernel.arch} {what}" for what in found]


def stale_entries(kernels: Sequence[KernelReport]) -> list[str]:
    """One sentence for each pattern of a table that fits no kernel."""
    names = {name for kernel in kernels for name in (kernel.kernel, f"{kernel.arch} {kernel.kernel}")}
    patterns = [*DYNAMIC_SHARED, *ALLOWED_SPILLS, *TENSOR_CORE_KERNELS, *VECTOR_BYTES, *(n.kernel for n in NARROW)]
    unused = [pattern for pattern in patterns if not any(re.fullmatch(pattern, name) for name in names)]
    return [f"tools/cuda_rules.py: no kernel is called {pattern}: remove or correct the entry" for pattern in unused]


def _entry(table: dict[str, Value], kernel: str) -> Value | None:
    return next((value for pattern, value in table.items() if re.fullmatch(pattern, kernel)), None)


def _local_memory(kernel: KernelReport) -> Iterator[str]:
    spilled = kernel.spill_stores + kernel.spill_loads
    allowed = _entry(ALLOWED_SPILLS, f"{kernel.arch} {kernel.kernel}") is not None
    if (kernel.code.local or spilled) and not allowed:
        yield (
            f"uses local memory ({kernel.code.local} LDL and STL, {spilled} bytes spilled): "
            "use fewer registers, or index arrays by constants"
        )


def _shared_memory(kernel: KernelReport) -> Iterator[str]:
    dynamic = _entry(DYNAMIC_SHARED, kernel.kernel)
    if kernel.uses_dynamic_shared and dynamic is None:
        yield "uses dynamic shared memory: say how much in DYNAMIC_SHARED of tools/cuda_rules.py"
    limit = SHARED_LIMITS.get(kernel.arch)
    total = kernel.shared + (dynamic or 0)
    if limit is None:
        yield "has no limit of shared memory: add the architecture to SHARED_LIMITS of tools/cuda_rules.py"
    elif total > limit:
        yield f"takes {total} bytes of shared memory, and a block has {limit} at most: use smaller tiles"


def _tensor_cores(kernel: KernelReport) -> Iterator[str]:
    if kernel.claims_tensor_cores and not kernel.code.tensor:
        yield "has no tensor-core instruction, which its name or TENSOR_CORE_KERNELS claims: use mma, or drop the claim"


def _vectors(kernel: KernelReport) -> Iterator[str]:
    if not kernel.vector_bits:
        return
    for access, counts in (("loads", kernel.code.loads), ("stores", kernel.code.stores)):
        yield from _accesses(kernel, access, counts)


def _accesses(kernel: KernelReport, access: str, counts: dict[int, int]) -> Iterator[str]:
    width = kernel.vector_bits
    allowed = next((n for n in NARROW if n.access == access and re.fullmatch(n.kernel, kernel.kernel)), None)
    narrow = {bits: count for bits, count in sorted(counts.items()) if bits < width}
    beyond = sum(narrow.values()) > allowed.most or max(narrow) > allowed.bits if allowed and narrow else bool(narrow)
    if beyond:
        shown = ", ".join(f"{count} of {bits} bits" for bits, count in narrow.items())
        yield f"has {access} of global memory narrower than {width} bits ({shown}): {_remedy(allowed)}"
    without_vectors = not any(bits >= width for bits in counts)
    if without_vectors and not (access == "stores" and allowed):  # stores of sums are narrow by design
        yield f"has no {width}-bit {access} of global memory: use Packed<T, kWidth>"


def _remedy(allowed: Narrow | None) -> str:
    if not allowed:
        return "use Packed<T, kWidth>, or give the reason in NARROW of tools/cuda_rules.py"
    return f"NARROW of tools/cuda_rules.py allows {allowed.most} of {allowed.bits} bits ({allowed.why})"
