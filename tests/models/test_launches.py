"""A steady packed pass waits for nothing on CUDA and launches no more than its budget: seen on fake tensors, no GPU.

Each pass is the second of a region, of SDXL's full-size models (benchmarks/steady.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from benchmarks import launches
from benchmarks.fake_cuda import GuardError, fake_cuda, register_guard
from benchmarks.launches import LaunchError, kernels_of
from benchmarks.op_log import OpLog, SyncError
from benchmarks.roofline import ALL, budget_of, name_of, named, predict
from benchmarks.steady import Setting, steady_passes

ROOT = Path(__file__).resolve().parents[2]
BUDGETS = Path(__file__).with_name("launch_budgets.json")
RENEW = f"python -m benchmarks.roofline --budgets {BUDGETS.relative_to(ROOT)}"
ROOM = 1.05  # of a budget; a change that needs more has a reason, which its commit says
PASSES = [name_of(model, count, graph) for model, counts in ALL.items() for count in counts for graph in (False, True)]
MADE = {"device": "cuda:0", "dtype": torch.bfloat16}


@pytest.fixture(scope="module", autouse=True)
def guard() -> None:
    try:
        register_guard()
    except GuardError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def logs() -> dict[str, OpLog]:
    """The logs of all passes; a model is built and recorded once."""
    logs: dict[str, OpLog] = {}
    for model, counts in ALL.items():
        logs |= named(model, steady_passes(Setting(model), counts))
    return logs


def log_of(action: Callable[[Tensor], object]) -> OpLog:
    """The log of an action on a fake tensor [2, 8, 4]."""
    with fake_cuda():
        rows = torch.empty(2, 8, 4, **MADE)
        with OpLog() as log:
            action(rows)
    return log


# ---- the passes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PASSES)
def test_a_steady_pass_waits_for_nothing(logs: dict[str, OpLog], name: str) -> None:
    """No value goes to the host, no tensor to another device, and no op runs on the CPU."""
    faults = sorted({str(fault) for fault in logs[name].faults})
    assert not faults, "take these out of the packed pass, or into its first one:\n" + "\n".join(faults)
    assert len(logs[name].calls) > 60


@pytest.mark.parametrize("name", PASSES)
def test_a_steady_pass_stays_in_its_budget(logs: dict[str, OpLog], name: str) -> None:
    budget = json.loads(BUDGETS.read_text())["passes"][name]
    for figure, now in budget_of(logs[name]).items():
        assert now <= ROOM * budget[figure], (
            f"{name}: {now:,} {figure}, expected at most {ROOM:.0%} of {budget[figure]:,}. "
            f"Launch less, or say in the commit why it must grow, and run: {RENEW}"
        )


def test_the_budgets_name_every_pass() -> None:
    assert sorted(json.loads(BUDGETS.read_text())["passes"]) == sorted(PASSES), f"run: {RENEW}"


@pytest.mark.parametrize("name", PASSES)
def test_no_prediction_is_below_its_floor(logs: dict[str, OpLog], name: str) -> None:
    prediction = predict(logs[name])
    assert prediction.total.seconds >= prediction.total.floor > 0
    assert sum(line.launches for line in prediction.kinds.values()) == budget_of(logs[name])["launches"]


def test_a_graph_replays_part_of_a_pass_with_our_attention(logs: dict[str, OpLog]) -> None:
    for name in PASSES[::2]:
        layers, graph = (budget_of(logs[one])["launches"] for one in (name, f"{name}, graph"))
        assert 0 < graph < layers
    for log in (logs[PASSES[0]], logs[PASSES[1]]):
        names = [call.name for call in log.calls]
        assert names.count("sige::block_attention") == 140  # 70 blocks, each with two attentions
        assert not any("scaled_dot_product" in name for name in names)
        assert names.count("sige::linear_stack") == 70  # query, key and value of self-attention


def test_the_decoders_one_head_is_two_products_and_a_softmax(
    logs: dict[str, OpLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all queries at once; the scores are fp32. `SIGE_ATTENTION=platform` asks for SDPA."""
    decoder = "vae-decoder, 1 recording"
    for log in (logs[decoder], logs[f"{decoder}, graph"]):
        calls = {name: [call for call in log.calls if call.name == f"aten::{name}"] for name in ("bmm", "_softmax")}
        assert (len(calls["bmm"]), len(calls["_softmax"])) == (2, 1)
        (scores,) = calls["_softmax"][0].results
        assert (scores.dtype, scores.shape[2]) == (torch.float32, 128 * 128)
        assert not any("scaled_dot_product" in call.name for call in log.calls)
        assert predict(log).kinds["wide attention: products"].launches == 2
    monkeypatch.setenv("SIGE_ATTENTION", "platform")
    names = [call.name for call in steady_passes(Setting("vae-decoder"), (1,))[1].layers.calls]
    assert names.count("aten::_scaled_dot_product_efficient_attention") == 1
    assert "aten::bmm" not in names


# ---- the log: each fault is found -----------------------------------------------------------------------------------


def test_a_value_that_goes_to_the_host_is_a_sync() -> None:
    log = log_of(lambda rows: (rows.sum().item(), bool(rows.amax() > 0)))
    assert (log.count("sync"), log.count("cpu")) == (2, 0)


@pytest.mark.parametrize(
    "action", [torch.nonzero, lambda rows: rows[rows > 0], lambda rows: torch.equal(rows, rows + 1)]
)
def test_a_size_that_depends_on_values_is_a_sync(action: Callable[[Tensor], object]) -> None:
    with pytest.raises(SyncError, match="sync: aten::.*take it out of the pass"):
        log_of(action)


def test_a_copy_to_another_device_is_found() -> None:
    assert log_of(lambda rows: rows.cpu()).count("copy") == 1
    assert log_of(lambda rows: rows + torch.ones(4).to(rows.device)).count("copy") == 1


def test_work_on_the_cpu_is_found() -> None:
    log = log_of(lambda rows: (torch.arange(4) * 2, rows * 2))
    assert [fault.op for fault in log.faults] == ["aten::arange", "aten::mul"]


def test_an_index_without_values_is_no_fault() -> None:
    index = torch.tensor([0, 2])
    with fake_cuda():
        on_device = index.to("cuda:0")
    assert log_of(lambda rows: rows[:, on_device]).faults == []


# ---- the table ------------------------------------------------------------------------------------------------------


def test_views_launch_nothing_and_products_one_kernel() -> None:
    log = log_of(lambda rows: rows.flatten(0, 1).t().unsqueeze(0))
    assert log.calls and [kernel for call in log.calls for kernel in kernels_of(call)] == []
    log = log_of(lambda rows: torch.nn.functional.linear(rows, torch.empty(6, 4, **MADE), torch.empty(6, **MADE)))
    (kernel,) = [kernel for call in log.calls for kernel in kernels_of(call)]
    assert (kernel.product, kernel.flops) == ((16, 6, 4), 2 * 16 * 6 * 4)
    assert kernel.nbytes == 2 * (16 * 4 + 6 * 4 + 6 + 16 * 6)


def test_an_op_without_a_rule_is_named() -> None:
    (call,) = log_of(lambda rows: rows.cumsum(1)).calls
    with pytest.raises(LaunchError, match="aten::cumsum: no rule says .* add one to benchmarks/launches.py"):
        kernels_of(call)


@pytest.mark.parametrize(("affine", "bias", "kernels"), [(True, True, 4), (False, True, 3), (False, False, 2)])
def test_a_convolution_launches_what_its_arguments_need(affine: bool, bias: bool, kernels: int) -> None:
    """activate_rows, fill_rows, gather, addmm; two chunks launch all but the first twice."""

    def convolve(rows: Tensor, chunk_rows: int) -> Tensor:
        index = torch.empty(8, 9, dtype=torch.int32, device="cuda:0")
        scale = torch.empty(2, 4, device="cuda:0") if affine else None
        added = torch.empty(6, **MADE) if bias else None
        weight = torch.empty(6, 36, **MADE)
        op = torch.ops.sige.sparse_conv2d.default
        return op(rows, rows, index, weight, added, scale, scale, int(affine), None, chunk_rows)  # type: ignore[no-any-return]

    for chunk_rows, expected in ((0, kernels), (8, 2 * kernels - affine)):
        log = log_of(lambda rows, chunk_rows=chunk_rows: convolve(rows, chunk_rows))
        (call,) = [call for call in log.calls if call.name == "sige::sparse_conv2d"]
        assert len(kernels_of(call)) == expected


def test_row_product_is_one_launch() -> None:
    """Where the op's own product is expected to be faster; many columns of K on few rows are split, in one launch."""

    def kinds(rows: int, depth: int, residual: bool) -> list[str]:
        def multiply(_: Tensor) -> Tensor:
            weight, added = torch.empty(1280, depth, **MADE), torch.empty(1, rows, 1280, **MADE)
            op = torch.ops.sige.linear.default
            return op(torch.empty(1, rows, depth, **MADE), weight, None, added if residual else None)  # type: ignore[no-any-return]

        (call,) = [call for call in log_of(multiply).calls if call.name == "sige::linear"]
        return [kernel.kind for kernel in kernels_of(call)]

    assert kinds(288, 1280, residual=True) == ["linear: product"]
    assert kinds(288, 5120, residual=True) == ["linear: product"]
    assert kinds(288, 1280, residual=False) == ["linear: product"]  # cuBLAS
    assert kinds(8000, 5120, residual=True) == ["linear: bias, residual", "linear: product"]


def test_a_stack_of_layers_is_one_launch_where_its_rows_are_few() -> None:
    """Query, key and value; with many rows each is a product of cuBLAS."""

    def kernels(rows: int) -> list[launches.Kernel]:
        def multiply(_: Tensor) -> Tensor:
            weights = [torch.empty(1280, 1280, **MADE) for _ in range(3)]
            return torch.ops.sige.linear_stack.default(torch.empty(1, rows, 1280, **MADE), weights, [])  # type: ignore[no-any-return]

        (call,) = [call for call in log_of(multiply).calls if call.name == "sige::linear_stack"]
        return kernels_of(call)

    (one,) = kernels(288)
    assert one.nbytes == 2 * (288 * 1280 + 3 * 1280 * 1280 + 3 * 288 * 1280)
    assert [kernel.product for kernel in kernels(4096)] == [(4096, 1280, 1280)] * 3
    assert sum(kernel.flops for kernel in kernels(4096)) == 2 * 4096 * 1280 * 3840


def test_every_op_of_ours_has_a_rule() -> None:
    from sige.ops.registry import OPS

    assert {name for name in launches.RULES if name.startswith("sige::")} == {f"sige::{name}" for name in OPS}


def test_the_table_has_the_chunk_of_the_library() -> None:
    text = (ROOT / "csrc/sparse_conv2d_op.cpp").read_text()
    (found,) = re.findall(r"defined\(SIGE_CUDA\)\s*static constexpr int64_t kChunkBytes = int64_t\{(\d+)\} << 20", text)
    assert int(found) << 20 == launches.CONV_CHUNK_BYTES, "update the rule of sparse_conv2d in benchmarks/launches.py"


# ---- the guard ------------------------------------------------------------------------------------------------------


@pytest.fixture
def fake_module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    from benchmarks import fake_cuda as module

    monkeypatch.setattr(module, "FOLDER", tmp_path)
    return module


def test_a_missing_compiler_is_one_line(fake_module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(GuardError, match="^fake CUDA needs a C\\+\\+ compiler.*: install one, or name yours in CXX$"):
        fake_module._compiled()
    assert list(fake_module.FOLDER.glob("*.so")) == []


def test_a_torch_with_cuda_needs_no_guard(fake_module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setenv("CXX", "no-such-compiler")
    fake_module.register_guard.__wrapped__()
    assert list(fake_module.FOLDER.iterdir()) == []
