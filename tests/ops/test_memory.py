"""sparse_conv2d never holds more than one chunk of the gathered matrix."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from sige.ops import backends, sparse_conv2d

CHUNK_MB = {"cpu": 16, "cuda": 64}  # csrc/sparse_conv2d_op.cpp
ROWS, CHANNELS, TAPS = 40_000, 320, 9
GATHERED_MB = ROWS * TAPS * CHANNELS * 4 / 2**20  # 439

PROGRAM = f"""
import resource, torch
from sige.ops import sparse_conv2d

def run(rows):
    packed = torch.randn(1, rows, {CHANNELS})
    index = torch.randint(-1, rows, (rows, {TAPS}), dtype=torch.int32)
    weight = torch.randn({CHANNELS}, {TAPS * CHANNELS})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    out = sparse_conv2d(packed, packed[:, :0], index, weight)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (after - before) / 1024 - out.nbytes / 2**20

run(64)  # what the matrix library keeps for itself
print(run({ROWS}))
"""


# A linear layer of the same size first: what the product takes for itself is not counted.
SMALL_PROGRAM = f"""
import resource, torch
from sige.ops import linear, sparse_conv2d

packed = torch.randn(1, 64, {CHANNELS})
index = torch.randint(-1, 64, (64, {TAPS}), dtype=torch.int32)
weight = torch.randn({CHANNELS}, {TAPS * CHANNELS})
linear(torch.randn(1, 64, {TAPS * CHANNELS}), weight)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
sparse_conv2d(packed, packed[:, :0], index, weight)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def _printed(program: str) -> float:
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return float(run.stdout)


def test_a_small_convolution_takes_little_memory() -> None:
    """Each call once made and cleared pointers for all rows that 16 MB hold, which took most of its time."""
    if not backends()[0].native:
        pytest.skip("the reference is not about memory")
    assert _printed(SMALL_PROGRAM) < 6


def test_peak_on_the_cpu_is_the_output_and_one_chunk() -> None:
    if not backends()[0].native:
        pytest.skip("the reference gathers everything at once")
    beyond_output = _printed(PROGRAM)
    assert beyond_output < CHUNK_MB["cpu"] + 24, f"{beyond_output:.0f} MB beyond the output"  # 24: MKL's own buffers
    assert CHUNK_MB["cpu"] + 24 < GATHERED_MB / 5


@pytest.mark.gpu
def test_peak_on_cuda_is_the_output_and_one_chunk() -> None:
    packed = torch.randn(1, ROWS, CHANNELS, device="cuda")
    index = torch.randint(-1, ROWS, (ROWS, TAPS), dtype=torch.int32, device="cuda")
    weight = torch.randn(CHANNELS, TAPS * CHANNELS, device="cuda")
    sparse_conv2d(packed, packed[:, :0], index[:64], weight)  # cuBLAS takes its workspace
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    out = sparse_conv2d(packed, packed[:, :0], index, weight)
    beyond_output = (torch.cuda.max_memory_allocated() - before - out.nbytes) / 2**20
    assert beyond_output < CHUNK_MB["cuda"] + 4 < GATHERED_MB / 5
