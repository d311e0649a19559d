"""The bounds of what a recorded pass costs more, counted on fake CUDA tensors: benchmarks/recorded_cost.py."""

from __future__ import annotations

import pytest
import torch

from benchmarks import recorded_cost
from benchmarks.fake_cuda import GuardError, register_guard
from benchmarks.op_log import OpLog
from benchmarks.recorded_cost import Cost, cost_of_dense, cost_of_recording
from sige.recordings import Probe


def test_a_dense_pass_costs_its_products_and_norms_and_nothing_pointwise() -> None:
    with torch.no_grad(), OpLog() as log:
        torch.relu(torch.nn.functional.layer_norm(torch.zeros(2, 3) @ torch.zeros(3, 4), (4,)))
    product = 4 * (2 * 3 + 3 * 4 + 2 * 4)
    norm = 4 * (2 * 4 + 2 * 4 + 2 * 2)  # with mean and deviation of each row
    assert cost_of_dense(log.calls) == Cost(2, product + norm)


def test_a_recording_costs_what_no_product_has_written_and_its_sums() -> None:
    linear, norm = torch.nn.Linear(4, 4), torch.nn.GroupNorm(2, 4)
    probes = [Probe("key", linear, "output"), Probe("norm", norm, "input", groups=2), Probe("up", norm, "input")]
    rows = {"key": torch.zeros(1, 5, 4), "norm": torch.zeros(1, 3, 4), "up": torch.zeros(1, 2, 4)}
    assert cost_of_recording(probes, rows) == Cost(1, 4 * 4 * (3 + 2) + 4 * 4 * 3)
    merged = [Probe("key", linear, "output", restore=lambda rows: rows)]
    assert cost_of_recording(merged, rows) == Cost(0, 4 * 4 * 5)


def test_the_table_of_sdxl_is_the_one_of_the_docs(capsys: pytest.CaptureFixture[str]) -> None:
    """Launches and bytes of docs/compile.md."""
    try:
        register_guard()
    except GuardError as error:
        pytest.skip(str(error))
    recorded_cost.main([])
    share = capsys.readouterr().out.strip().splitlines()[-1]
    assert share.split()[-2:] == ["3.61", "4.3"]
