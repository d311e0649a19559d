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


def test_peak_on_the_cpu_is_the_output_and_one_chunk() -> None:
    if not backends()[0].native:
        pytest.skip("the reference gathers everything at once")
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    beyond_output = float(run.stdout)
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
