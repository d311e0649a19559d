"""The plans of our CUDA kernels in Python: which product an op takes, and how row_product and attention are split.

Each function is what the header or kernel that it names decides, for the shapes and the GPU of a prediction;
tests/ops/test_launch_plans.py compares both. Pointers are taken to be aligned, as torch allocates them.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

__all__ = [
    "FULL_GRID",
    "MULTIPROCESSORS",
    "AttentionPlan",
    "ProductPlan",
    "attention_plan",
    "product_plan",
    "stats_blocks",
    "stats_last_clocks",
    "takes_row_product",
    "takes_tensor_attention",
]

MULTIPROCESSORS = 132  # of an H200
FULL_GRID = 2 * MULTIPROCESSORS  # SIGE_FULL_GRID of csrc/tensor_attention.cu

# csrc/common/product_plan.h
TILES = ((128, 128, 32, 1000.0), (64, 128, 64, 750.0), (64, 64, 64, 550.0))  # rows, columns, depth, rate
MOST_SPLITS = 16  # of attention, too
FEWEST_STEPS = 4
MOST_PARTIALS = 1 << 24
MOST_SPLIT_TILES = 2048
BLOCK_CLOCKS, ALONE = 1500.0, 1.25
LAST_CLOCKS, WRITTEN_BYTES, READ_BYTES = 1000.0, 24.0, 48.0  # the bytes are those of one multiprocessor in a clock

# csrc/common/mapped_product.h
MOST_TAPS = 16
MOST_COUNT = 1 << 30
LAUNCH_SECONDS, BYTES_PER_SECOND = 3e-6, 2.5e12
LOST_SECONDS = 1.6e-15  # per product, on sm_90

# csrc/group_stats.h and csrc/common/stats_rows.cuh
STATS_ROWS, CHUNK_BLOCKS, STATS_LANES, STATS_LOADS = 64, 64, 4, 8
WAIT_CLOCKS = 600.0  # for a load from the L2 cache

# csrc/tensor_attention.cu
TILE = 64  # queries, and keys
LARGEST_HEAD = 160
LEAST_SPLIT_TILES = 4


def ceil_div(count: int, size: int) -> int:
    """The quotient, rounded up."""
    return -(-count // size)


# ---- products -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ProductPlan:
    """How row_product cuts a product."""

    tile: int  # of TILES
    splits: int  # with more than one, the last block of a tile adds the parts
    steps: int  # of one split
    clocks: float


@functools.cache
def product_plan(
    rows: int, columns: int, depth: int, multiprocessors: int = MULTIPROCESSORS, layers: int = 1
) -> ProductPlan:
    """plan_product: the plan of least estimated time for [rows, depth] times [depth, columns], by each layer."""
    best: ProductPlan | None = None
    for number, (high, wide, tile_depth, _) in enumerate(TILES):
        steps, tiles = ceil_div(depth, tile_depth), ceil_div(rows, high) * ceil_div(columns, wide) * layers
        for wanted in range(1, MOST_SPLITS + 1):
            in_split = ceil_div(steps, wanted)
            splits = ceil_div(steps, in_split)
            if wanted > 1 and (in_split < FEWEST_STEPS or tiles > MOST_SPLIT_TILES):
                break
            if wanted > 1 and splits * rows * columns * layers > MOST_PARTIALS:
                break
            plan = _timed(number, rows, columns, in_split, splits, multiprocessors, layers)
            best = plan if best is None or plan.clocks < best.clocks else best
    assert best is not None
    return best


def _timed(
    number: int, rows: int, columns: int, steps: int, splits: int, multiprocessors: int, layers: int
) -> ProductPlan:
    """product_clocks: waves of blocks, then the last block of each tile."""
    high, wide, depth, rate = TILES[number]
    tiles = ceil_div(rows, high) * ceil_div(columns, wide) * layers
    rounds = ceil_div(tiles * splits, multiprocessors)
    work = float(steps) * depth * high * wide / rate
    clocks = float(rounds) * (work + BLOCK_CLOCKS) * (ALONE if rounds == 1 else 1.0)
    if splits > 1:
        parts = float(ceil_div(tiles, multiprocessors) * splits)
        clocks += LAST_CLOCKS + 4.0 * high * wide * (float(rounds) / WRITTEN_BYTES + parts / READ_BYTES)
    return ProductPlan(number, splits, steps, clocks)


def takes_row_product(
    rows: int,
    columns: int,
    taps: int,
    channels: int,
    dtype: torch.dtype,
    launches: int,
    nbytes: int,
    layers: int = 1,
) -> bool:
    """takes_mapped_product, on sm_90; `launches` and `nbytes` are what the op need not do then."""
    if dtype == torch.float32 or not 1 <= taps <= MOST_TAPS or rows > MOST_COUNT:
        return False
    if any(count <= 0 or count % 8 or count * taps > MOST_COUNT for count in (channels, columns)):
        return False
    products = float(rows * columns * layers) * float(taps * channels)
    return products * LOST_SECONDS <= launches * LAUNCH_SECONDS + nbytes / BYTES_PER_SECOND


# ---- attention ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AttentionPlan:
    """How the tensor-core kernel of block_attention cuts its work."""

    queries: int  # of a block
    splits: int  # of the keys; with more than one, the last block adds the parts
    keys: int  # of one split
    waves: int  # of full grids

    def last_clocks(self, head_size: int) -> float:
        """The estimated clocks in which parts are written, and the last block of each tile of queries adds them."""
        if self.splits == 1:
            return 0.0
        part = 4.0 * self.queries * (head_size + 1)
        return LAST_CLOCKS + part * (2.0 * self.waves / WRITTEN_BYTES + self.splits / READ_BYTES)


def takes_tensor_attention(head_size: int, dtype: torch.dtype) -> bool:
    """takes_tensor_attention: 16 bits, rows on 16-byte boundaries."""
    return dtype != torch.float32 and head_size <= LARGEST_HEAD and head_size % 8 == 0


def attention_plan(heads: int, queries: int, keys: int, head_size: int, full_grid: int = FULL_GRID) -> AttentionPlan:
    """make_grid; `heads` are those of all samples."""
    high = _row_tiles(heads, queries, keys, head_size, full_grid) * TILE
    tiles, blocks = ceil_div(keys, TILE), heads * ceil_div(queries, high)
    split_tiles = ceil_div(tiles, _splits(blocks, tiles, full_grid))
    splits = ceil_div(tiles, split_tiles) if split_tiles else 1
    return AttentionPlan(high, splits, split_tiles * TILE, ceil_div(blocks * splits, full_grid))


def _row_tiles(heads: int, queries: int, keys: int, head_size: int, full_grid: int) -> int:
    tiles = ceil_div(queries, TILE)
    if head_size > 64 or tiles % 2:
        return 1
    return 2 if heads * tiles // 2 * _most_splits(ceil_div(keys, TILE)) >= full_grid else 1


def _most_splits(tiles: int) -> int:
    return min(max(tiles // LEAST_SPLIT_TILES, 1), MOST_SPLITS)


def _splits(blocks: int, tiles: int, full_grid: int) -> int:
    """choose_splits: the fewest that keep the GPU at work 85 % of the time, or those that do so most."""

    def efficiency(splits: int) -> float:
        waves = ceil_div(blocks * splits, full_grid)
        return float(blocks * tiles) / float(waves * full_grid * ceil_div(tiles, splits))

    best = 1
    if tiles == 0 or blocks >= full_grid:
        return best
    for splits in range(1, _most_splits(tiles) + 1):
        if efficiency(splits) > efficiency(best):
            best = splits
        if efficiency(best) >= 0.85:
            break
    return best


# ---- sums of groups: csrc/common/stats_rows.cuh ---------------------------------------------------------------------


def stats_blocks(rows: int) -> int:
    """The row blocks of a sample."""
    return max(ceil_div(rows, STATS_ROWS), 1)


def stats_last_clocks(rows: int, terms: int) -> float:
    """The estimated clocks in which the last blocks add the sums of a chunk, and then those of a sample's chunks.

    They wait for memory: a thread has eight loads on their way, and each time waits for them once.
    """
    blocks = stats_blocks(rows)
    chunks = ceil_div(blocks, CHUNK_BLOCKS)
    clocks = _stats_wait(min(blocks, CHUNK_BLOCKS)) if blocks > 1 else 0.0
    if chunks * terms > 1:
        clocks += LAST_CLOCKS
    return clocks + (terms * (_stats_wait(chunks) - LAST_CLOCKS) if chunks > 1 else 0.0)


def _stats_wait(count: int) -> float:
    """A fence and a count, and the waits for `count` numbers that STATS_LANES threads share."""
    return LAST_CLOCKS + WAIT_CLOCKS * ceil_div(ceil_div(count, STATS_LANES), STATS_LOADS)
