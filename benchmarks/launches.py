"""The kernels that each op of a packed pass launches on CUDA, with their work: one rule per op, to check against csrc.

A rule takes a call and returns its kernels in order. Whoever changes what an op launches changes its rule here, and
renews the budgets of tests/models/test_launches.py. An op that no rule names is an error, so none is left out.

bytes   what a kernel reads and writes, each operand once; what is found in the L2 cache counts, too
flops   of products and attention; other kernels wait for memory, and have 0
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.launch_plans import (
    FULL_GRID,
    attention_plan,
    product_plan,
    stats_blocks,
    stats_last_clocks,
    takes_row_product,
    takes_tensor_attention,
)
from benchmarks.op_log import OpCall, Operand

__all__ = ["RULES", "Kernel", "LaunchError", "kernels_of"]

CONV_CHUNK_BYTES = 24 << 20  # kChunkBytes of csrc/sparse_conv2d_op.cpp, in the CUDA library
LEAST_CHUNK_ROWS = 64  # of chunk_rows there
MOST_TOKENS = 3 * 77  # of a prompt, to tell the kinds of attention apart


class LaunchError(Exception):
    """An op without a rule; the message says what to do."""


@dataclass(frozen=True)
class Kernel:
    """One launch."""

    kind: str  # the line of the table that it is added to
    nbytes: int
    flops: int = 0
    product: tuple[int, int, int] | None = None  # rows, columns and depth of a matrix product
    attention: tuple[int, int, int, int] | None = None  # batch * heads, queries, keys, head size
    clocks: float = 0.0  # of row_product, as its plan estimates them
    attended: int = 0  # FLOPs of block_attention in whole waves of full blocks
    last: float = 0.0  # clocks after that, in which the last blocks put parts together


Rule = Callable[[OpCall], list[Kernel]]


def kernels_of(call: OpCall) -> list[Kernel]:
    """The kernels that the call launches; a call whose results are empty launches none."""
    if call.is_view or call.name in NO_KERNEL:
        return []
    rule = RULES.get(call.name) or (_pointwise if call.is_pointwise else None)
    if rule is None:
        raise LaunchError(f"{call.name}: no rule says what it launches on CUDA: add one to benchmarks/launches.py")
    if call.results and not any(result.numel for result in call.results):
        return []
    return rule(call)


# ---- parts ----------------------------------------------------------------------------------------------------------


def _product(kind: str, rows: int, columns: int, depth: int, element: int, *, adds: bool = False) -> Kernel:
    """out [rows, columns] = a [rows, depth] @ b [depth, columns], or out += with `adds`."""
    elements = rows * depth + depth * columns + rows * columns * (1 + adds)
    return Kernel(kind, elements * element, 2 * rows * columns * depth, (rows, columns, depth))


def _pass(kind: str) -> Rule:
    """One kernel that reads all arguments and writes all results."""
    return lambda call: [Kernel(kind, call.nbytes)]


def _pointwise(call: OpCall) -> list[Kernel]:
    return [Kernel("other pointwise", call.nbytes)]


def _copy_rows(kind: str) -> Rule:
    """One kernel that reads, of its source, as much as it writes."""
    return lambda call: [Kernel(kind, 2 * call.results[0].nbytes)]


# ---- our ops: csrc/*_op.cpp -----------------------------------------------------------------------------------------


def sparse_conv2d(call: OpCall) -> list[Kernel]:
    """activate_rows if it pays; then row_product through the map, or the chunks."""
    packed, recorded, index = (call[name] for name in ("packed", "recorded", "index"))
    source = packed.shape[0] * (packed.shape[1] + recorded.shape[1]) * packed.shape[2] * packed.dtype.itemsize
    transforms = call["scale"] is not None or call["activation"] != 0
    kernels = []
    if transforms and packed.shape[1] + recorded.shape[1] < index.numel:
        kernels.append(Kernel("convolution: norm and SiLU", 2 * source))
        transforms = False
    chunks = _chunks(call, source)
    return kernels + ((None if transforms else _mapped_convolution(call, source, len(chunks))) or sum(chunks, []))


def _mapped_convolution(call: OpCall, source: int, chunks: int) -> list[Kernel] | None:
    """multiply_mapped: None where the chunks are faster."""
    out, weight, taps = call.results[0], call["weight"], call["index"].shape[1]
    rows, columns, depth = out.shape[0] * out.shape[1], weight.shape[0], weight.shape[1]
    starts = _starts(call)
    saved = chunks * (3 if starts else 2) - 1, 4 * rows * depth + (4 * out.numel if starts else 0)
    if not takes_row_product(rows, columns, taps, depth // taps, out.dtype, *saved):
        return None
    read = min(source, rows * depth * out.dtype.itemsize) + call["index"].nbytes
    return _row_product("convolution: product", call, read, depth)


def _chunks(call: OpCall, source: int) -> list[list[Kernel]]:
    """multiply_chunks: for each chunk fill_out if there is something to add, gather, addmm."""
    weight, element = call["weight"], call.results[0].dtype.itemsize
    batch, outputs = call.results[0].shape[:2]
    columns, depth = weight.shape
    taps = call["index"].shape[1]
    chunks = []
    for rows in conv_chunks(batch * outputs, depth * element, call["chunk_rows"]):
        out, matrix = rows * columns * element, rows * depth * element
        fill = Kernel("convolution: bias, residual", out * (1 + (call["residual"] is not None)))
        read = min(matrix, source * rows // (batch * outputs))
        gather = Kernel("convolution: gather", read + matrix + rows * taps * 4 // batch)
        product = _product("convolution: product", rows, columns, depth, element, adds=_starts(call))
        chunks.append([fill, gather, product] if _starts(call) else [gather, product])
    return chunks


def _starts(call: OpCall) -> bool:
    """Says whether bias or residual are added."""
    return call["bias"] is not None or call["residual"] is not None


def _row_product(kind: str, call: OpCall, read: int, depth: int) -> list[Kernel]:
    """row_product, which reads `read` bytes of rows."""
    added = sum(call[name].nbytes for name in ("bias", "residual") if call[name] is not None)
    return _row_products(kind, call.results[0], [call["weight"]], read, added, depth)


def _row_products(kind: str, out: Operand, weights: list[Operand], read: int, added: int, depth: int) -> list[Kernel]:
    """row_product of several layers of one shape; `added` bytes are those of biases and a residual.

    The parts of a split depth are written, and read once.
    """
    columns = weights[0].shape[0]
    rows = out.numel // (len(weights) * columns)
    plan = product_plan(rows, columns, depth, layers=len(weights))
    parts = 2 * 4 * plan.splits * out.numel if plan.splits > 1 else 0
    nbytes = read + sum(weight.nbytes for weight in weights) + parts + added + out.nbytes
    return [Kernel(kind, nbytes, 2 * out.numel * depth, clocks=plan.clocks)]


def conv_chunks(rows: int, row_bytes: int, wanted: int) -> list[int]:
    """The rows of each chunk, as chunk_rows and multiply_chunks of csrc/sparse_conv2d_op.cpp choose them.

    >>> conv_chunks(100, CONV_CHUNK_BYTES // 64, 0)
    [50, 50]
    """
    limit = wanted if wanted > 0 else max(CONV_CHUNK_BYTES // max(row_bytes, 1), LEAST_CHUNK_ROWS)
    each = -(-rows // max(-(-rows // limit), 1))
    return [min(each, rows - first) for first in range(0, rows, each)]


def norm_affine(call: OpCall) -> list[Kernel]:
    """One kernel that reads new and old rows of every term; its last blocks end the sums: scale and shift."""
    packed: Operand = call["packed"]
    terms, sums = len(call["stats"]), call["stats"][0].nbytes
    parts = 2 * terms * sums * stats_blocks(packed.shape[1])
    affine = sum(result.nbytes for result in call.results)
    nbytes = 2 * terms * packed.nbytes + parts + terms * sums + affine
    return [Kernel("norm: scale and shift", nbytes, last=stats_last_clocks(packed.shape[1], terms))]


def group_stats(call: OpCall) -> list[Kernel]:
    """group_stats and update_group_stats: one kernel, which reads the rows; its last blocks end the sums."""
    (rows,) = (operand for name, operand in call.arguments.items() if name in ("rows", "packed"))
    read = rows.nbytes * (2 if call.name.endswith("update_group_stats") else 1)
    parts = 2 * call.results[0].nbytes * stats_blocks(rows.shape[1])
    last = stats_last_clocks(rows.shape[1], 1)
    return [Kernel("norm: sums of rows", read + parts + 2 * call.results[0].nbytes, last=last)]


def linear(call: OpCall) -> list[Kernel]:
    """row_product, or fill_out if there is something to add, and addmm."""
    rows, out, starts = call["rows"], call.results[0], _starts(call)
    count, columns, depth = rows.shape[0] * rows.shape[1], out.shape[2], rows.shape[2]
    if takes_row_product(count, columns, 1, depth, rows.dtype, int(starts), 4 * out.numel if starts else 0):
        return _row_product("linear: product", call, rows.nbytes, depth)
    fill = [Kernel("linear: bias, residual", 2 * out.nbytes)] if starts else []
    return [*fill, _product("linear: product", count, columns, depth, rows.dtype.itemsize, adds=starts)]


def linear_stack(call: OpCall) -> list[Kernel]:
    """row_product of all layers, or addmm for each, which also adds the bias."""
    rows, weights, biases, out = call["rows"], call["weights"], call["biases"], call.results[0]
    count, columns, depth = rows.shape[0] * rows.shape[1], out.shape[3], rows.shape[2]
    others = len(weights) - 1
    saved = others, 2 * others * rows.numel
    if takes_row_product(count, columns, 1, depth, rows.dtype, *saved, layers=len(weights)):
        added = sum(bias.nbytes for bias in biases)
        return _row_products("linear: product", out, weights, rows.nbytes, added, depth)
    return [_product("linear: product", count, columns, depth, rows.dtype.itemsize) for _ in weights]


def blend_rows(call: OpCall) -> list[Kernel]:
    """One kernel that reads a row of each term for each row that it writes."""
    return [Kernel("blend of recordings", (len(call["rows"]) + 1) * call.results[0].nbytes)]


def scatter(call: OpCall) -> list[Kernel]:
    """One kernel, which writes the packed rows and nothing else."""
    return [Kernel("scatter", 2 * call["packed"].nbytes)]


def block_attention(call: OpCall) -> list[Kernel]:
    """One kernel; where its plan splits the keys, its last blocks put the parts together."""
    query, keys, heads = call["query"], call["index"].shape[0], call["heads"]
    batch, count, channels = query.shape
    shape = batch * heads, count, keys, channels // heads
    kind, flops = _kind_of_attention(keys), _attention_flops(shape)
    nbytes = query.nbytes + 2 * batch * keys * channels * query.dtype.itemsize
    if not takes_tensor_attention(shape[3], query.dtype):
        return [Kernel(kind, nbytes + query.nbytes, flops, attention=shape)]
    plan = attention_plan(*shape)
    attended = plan.waves * FULL_GRID * _attention_flops((1, plan.queries, plan.keys, shape[3]))
    parts = 2 * 4 * plan.splits * batch * count * (channels + heads) if plan.splits > 1 else 0
    last = plan.last_clocks(shape[3])
    return [Kernel(kind, nbytes + parts + query.nbytes, flops, attended=attended, last=last)]


def _kind_of_attention(keys: int) -> str:
    """Keys of self-attention are as many as positions; a prompt has few tokens."""
    return "cross-attention" if keys <= MOST_TOKENS else "self-attention"


# ---- torch's ops ----------------------------------------------------------------------------------------------------


def product(call: OpCall) -> list[Kernel]:
    """mm, addmm, bmm, baddbmm: one kernel of cuBLAS, which also adds the bias."""
    left, right = call.operands[-2:]
    count, columns, depth = call.results[0].numel // right.shape[-1], right.shape[-1], left.shape[-1]
    return [Kernel("linear: product", call.nbytes, 2 * count * columns * depth, (count, columns, depth))]


def batched_product(call: OpCall) -> list[Kernel]:
    """bmm: one kernel of cuBLAS. In a packed pass only wide_attention calls it, in most models with a batch of one."""
    left, right = call["self"], call["mat2"]
    batch, count, depth = left.shape
    shape = batch * count, right.shape[2], depth
    return [Kernel("wide attention: products", call.nbytes, 2 * math.prod(shape), shape)]


def attention(call: OpCall) -> list[Kernel]:
    """SDPA's fused kernel."""
    query, key, value = call["query"], call["key"], call["value"]
    batch, heads, count, size = query.shape
    shape = batch * heads, count, key.shape[2], size
    kind = _kind_of_attention(key.shape[2])
    return [Kernel(kind, 2 * query.nbytes + key.nbytes + value.nbytes, _attention_flops(shape), attention=shape)]


def _attention_flops(shape: tuple[int, int, int, int]) -> int:  # batch * heads, queries, keys, head size
    blocks, queries, keys, size = shape
    return 4 * blocks * queries * keys * size


def cast(call: OpCall) -> list[Kernel]:
    """One kernel. Of three dimensions are the weights and results that wide_attention rounds."""
    kind = "wide attention: rounding" if len(call["self"].shape) == 3 else "other pointwise"
    return [Kernel(kind, call.nbytes)]


def cat(call: OpCall) -> list[Kernel]:
    """One kernel. Rows are joined along dimension 1 for attention, channels along 2 for a skip connection."""
    kind = "recorded keys and values: join" if call["dim"] == 1 else "concatenation"
    return [Kernel(kind, call.nbytes)]


def pad(call: OpCall) -> list[Kernel]:
    """It fills all, then copies."""
    return [Kernel("other pointwise", call.results[0].nbytes), Kernel("other pointwise", 2 * call["self"].nbytes)]


def index_copy(call: OpCall) -> list[Kernel]:
    """A copy of all rows, then new rows in the place of some."""
    kind = "recorded keys and values: copy"
    return [Kernel(kind, 2 * call["self"].nbytes), Kernel(kind, 2 * call["source"].nbytes)]


NO_KERNEL = {  # they allocate, or return what they got
    "aten::_unsafe_view",
    "aten::empty",
    "aten::empty_like",
    "aten::empty_strided",
    "aten::lift_fresh",
    "aten::new_empty",
    "aten::new_empty_strided",
}

RULES: dict[str, Rule] = {
    "sige::blend_rows": blend_rows,
    "sige::block_attention": block_attention,
    "sige::gather": _copy_rows("norm: apply"),
    "sige::geglu_rows": _pass("GEGLU"),
    "sige::group_stats": group_stats,
    "sige::linear": linear,
    "sige::linear_stack": linear_stack,
    "sige::norm_affine": norm_affine,
    "sige::scatter": scatter,
    "sige::sparse_conv2d": sparse_conv2d,
    "sige::time_table": _pass("time"),
    "sige::update_group_stats": group_stats,
    "aten::_scaled_dot_product_efficient_attention": attention,
    "aten::_scaled_dot_product_flash_attention": attention,
    "aten::_softmax": _pass("wide attention: softmax"),
    "aten::_to_copy": cast,
    "aten::add_": _pass("residual"),
    "aten::addmm": product,
    "aten::arange": _pass("other pointwise"),
    "aten::bmm": batched_product,
    "aten::cat": cat,
    "aten::constant_pad_nd": pad,
    "aten::copy_": _pass("other pointwise"),
    "aten::index_copy": index_copy,
    "aten::index_select": _copy_rows("halo of recordings"),
    "aten::mm": product,
    "aten::mul_": _pass("wide attention: scale"),
    "aten::native_layer_norm": _pass("layer norm"),
}
