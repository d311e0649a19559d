"""A wrong argument is an error that names it, what was got and what was expected, on every backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from sige.errors import OpError
from sige.ops import gather
from tests.ops.backends import TestedBackend, every_backend, every_op
from tests.ops.samples import on_tensors, sample_inputs

GATHER = ("packed", "recorded", "index", "scale", "shift", "activation")
NAMES = {
    "gather": GATHER,
    "sparse_conv2d": (*GATHER[:3], "weight", "bias", *GATHER[3:], "residual", "chunk_rows"),
    "linear": ("rows", "weight", "bias", "residual"),
    "linear_stack": ("rows", "weights", "biases"),
    "geglu_rows": ("rows",),
    "time_table": ("time", "weights", "biases", "added"),
    "scatter": ("dense", "packed", "index", "residual"),
    "group_stats": ("rows", "groups"),
    "update_group_stats": ("stats", "recorded", "index", "packed"),
    "blend_rows": ("rows", "weights", "index"),
    "norm_affine": ("stats", "recorded", "blend", "index", "packed", "weight", "bias", "eps"),
    "block_attention": (
        *("query", "key", "value", "recorded_key", "recorded_value", "index", "heads", "block_mask", "scale"),
    ),
}


@dataclass(frozen=True)
class Mistake:
    """A wrong value for one argument of an op, and the words that the message must contain."""

    op: str
    argument: str
    wrong: Any
    message: str


def sample(op: str, device: str) -> dict[str, Any]:
    """The first sample that has every optional argument, by name."""
    samples = sample_inputs(op, device, torch.float32)
    whole = next(arguments for arguments in samples if all(value is not None for value in arguments))
    return dict(zip(NAMES[op], whole, strict=True))


MISTAKES = [
    # ranks and sizes
    Mistake("gather", "packed", torch.zeros(3, 4), "packed has shape [3, 4], expected [B, N, C]"),
    Mistake(
        "gather", "recorded", torch.zeros(2, 9, 21), "recorded has shape [2, 9, 21], expected [B, M, C] = [2, any, 20]"
    ),
    Mistake("gather", "index", torch.zeros(5, dtype=torch.int32), "index has shape [5], expected [N_out, T]"),
    Mistake("gather", "scale", torch.zeros(2, 19), "scale has shape [2, 19], expected [B, C] = [2, 20]"),
    Mistake("gather", "shift", None, "scale and shift go together, got only scale"),
    Mistake("gather", "activation", 2, "activation is 2, expected 0 (none) or 1 (silu)"),
    Mistake("sparse_conv2d", "weight", torch.zeros(12, 7), "weight has shape [12, 7], expected [C_out, T * C]"),
    Mistake("sparse_conv2d", "bias", torch.zeros(1), "bias has shape [1], expected [C_out]"),
    Mistake("sparse_conv2d", "bias", torch.zeros(1, 12), "bias has shape [1, 12], expected [B, C_out] = [2, 12]"),
    Mistake("sparse_conv2d", "bias", torch.zeros(12, 2).t(), "bias has strides [1, 2] for shape [2, 12]"),
    Mistake(
        "sparse_conv2d", "residual", torch.zeros(1, 1, 1), "residual has shape [1, 1, 1], expected [B, N_out, C_out]"
    ),
    Mistake("sparse_conv2d", "chunk_rows", -1, "chunk_rows is -1, expected 0 (automatic) or a positive number"),
    Mistake("linear", "weight", torch.zeros(12, 31), "weight has shape [12, 31], expected [C_out, C] = [any, 32]"),
    Mistake("linear", "bias", torch.zeros(1), "bias has shape [1], expected [C_out] = [12]"),
    Mistake("linear", "rows", torch.zeros(2, 7, 64)[..., ::2], "rows has strides [448, 64, 2] for shape [2, 7, 32]"),
    Mistake("linear", "residual", torch.zeros(2, 7, 12).half(), "residual has dtype float16, expected float32"),
    Mistake("linear_stack", "weights", [], "weights has 0 tensors, expected 1 to 4"),
    Mistake("linear_stack", "weights", [torch.zeros(12, 32)] * 5, "weights has 5 tensors, expected 1 to 4"),
    Mistake("linear_stack", "biases", [torch.zeros(12)], "biases has 1 entries, expected 3 like weights"),
    Mistake("linear_stack", "biases", [torch.zeros(12), torch.zeros(1)] * 2, "biases has 4 entries, expected 3"),
    Mistake("linear_stack", "biases", [torch.zeros(1)] * 3, "biases[0] has shape [1], expected [C_out] = [12]"),
    Mistake("linear_stack", "rows", torch.zeros(2, 7, 31), "weights[0] has shape [12, 32], expected [C_out, C] ="),
    Mistake(
        "linear_stack",
        "weights",
        [torch.zeros(12, 32), torch.zeros(12, 32), torch.zeros(8, 32)],
        "weights[2] has shape [8, 32], expected [C_out, C] = [12, 32]",
    ),
    Mistake("geglu_rows", "rows", torch.zeros(2, 3), "rows has shape [2, 3], expected [B, N, 2 C]"),
    Mistake("geglu_rows", "rows", torch.zeros(2, 3, 5), "rows has 5 channels, expected an even number"),
    Mistake("time_table", "weights", [], "weights has 0 tensors, expected 1 to 64"),
    Mistake("time_table", "biases", [torch.zeros(5)], "biases has 1 entries, expected 3 like weights"),
    Mistake("time_table", "added", [torch.zeros(5)] * 3, "added[1] has shape [5], expected [C] = [1]"),
    Mistake("time_table", "time", torch.zeros(2, 21), "weights[0] has shape [5, 20], expected [C, E] = [any, 21]"),
    Mistake("scatter", "dense", torch.zeros(2, 4, 35), "dense has shape [2, 4, 35], expected [B, C, H, W]"),
    Mistake(
        "scatter", "packed", torch.zeros(2, 12, 5), "packed has shape [2, 12, 5], expected [B, N, C] = [2, any, 4]"
    ),
    Mistake("scatter", "index", torch.zeros(11, dtype=torch.int32), "index has shape [11], expected [N] = [12]"),
    Mistake("group_stats", "groups", 5, "groups is 5, expected a divisor of the 64 channels of rows"),
    Mistake("group_stats", "groups", 0, "groups is 0, expected a divisor"),
    Mistake("update_group_stats", "stats", torch.zeros(2, 32, 3), "stats has shape [2, 32, 3], expected [B, G, 2]"),
    Mistake("update_group_stats", "index", None, "recorded has shape [2, 200, 64], expected [B, M, C] = [2, 70, 64]"),
    Mistake("blend_rows", "rows", [], "rows has 0 tensors, expected 1 to 8"),
    Mistake("blend_rows", "rows", [torch.zeros(2, 200, 64)] * 9, "rows has 9 tensors, expected 1 to 8"),
    Mistake("blend_rows", "weights", torch.ones(2).double(), "weights has shape [2], expected [K] = [3]"),
    Mistake("blend_rows", "weights", torch.ones(3), "weights has dtype float32, expected float64"),
    Mistake(
        "blend_rows",
        "rows",
        [*torch.zeros(2, 2, 200, 64), torch.zeros(2, 199, 64)],
        "rows[2] has shape [2, 199, 64], expected [B, M, C] = [2, 200, 64]",
    ),
    Mistake(
        "blend_rows", "index", torch.zeros(5, 9, dtype=torch.int32), "index has shape [5, 9], expected [N] = [any]"
    ),
    Mistake("norm_affine", "stats", [], "stats has 0 tensors, expected 1 to 8"),
    Mistake("norm_affine", "recorded", [torch.zeros(2, 200, 64)], "recorded has 1 entries, expected 3 like stats"),
    Mistake("norm_affine", "blend", torch.ones(1).double(), "blend has shape [1], expected [K] = [3]"),
    Mistake(
        "norm_affine", "stats", list(torch.zeros(3, 2, 5, 2).double()), "groups is 5, expected a divisor of the 64"
    ),
    Mistake(
        "norm_affine",
        "recorded",
        [*torch.zeros(2, 2, 200, 64), torch.zeros(2, 199, 64)],
        "recorded[2] has shape [2, 199, 64], expected [B, M, C] = [2, 200, 64]",
    ),
    Mistake("norm_affine", "index", torch.zeros(71, dtype=torch.int32), "index has shape [71], expected [N] = [70]"),
    Mistake("norm_affine", "weight", torch.zeros(1), "weight has shape [1], expected [C] = [64]"),
    Mistake("block_attention", "value", torch.zeros(2, 69, 120), "value has shape [2, 69, 120], expected [B, K, C]"),
    Mistake("block_attention", "heads", 7, "heads is 7, expected a divisor of the 120 channels of query"),
    Mistake("block_attention", "heads", 0, "heads is 0, expected a divisor"),
    Mistake(
        "block_attention",
        "block_mask",
        torch.ones(1, 1, dtype=torch.bool),
        "block_mask has shape [1, 1], expected [ceil(N",
    ),
    # dtypes
    Mistake(
        "gather", "packed", torch.zeros(2, 7, 20, dtype=torch.float64), "recorded has dtype float32, expected float64"
    ),
    Mistake("gather", "index", torch.zeros(5, 9, dtype=torch.int64), "index has dtype int64, expected int32"),
    Mistake("gather", "scale", torch.zeros(2, 20, dtype=torch.float16), "scale has dtype float16, expected float32"),
    Mistake(
        "group_stats", "rows", torch.zeros(1, 2, 64, dtype=torch.float64), "rows has dtype float64, expected float32, "
    ),
    Mistake(
        "scatter",
        "residual",
        torch.zeros(2, 12, 4, dtype=torch.bfloat16),
        "residual has dtype bfloat16, expected float32",
    ),
    Mistake("update_group_stats", "stats", torch.zeros(2, 32, 2), "stats has dtype float32, expected float64"),
    Mistake(
        "blend_rows", "rows", list(torch.zeros(3, 2, 200, 64).double()), "rows[0] has dtype float64, expected float"
    ),
    Mistake(
        "blend_rows",
        "rows",
        [torch.zeros(2, 200, 64), *torch.zeros(2, 2, 200, 64).half()],
        "rows[1] has dtype float16, expected float32",
    ),
    Mistake("norm_affine", "stats", list(torch.zeros(3, 2, 32, 2)), "stats[0] has dtype float32, expected float64"),
    Mistake("norm_affine", "bias", torch.zeros(64).half(), "bias has dtype float16, expected float32"),
    Mistake("block_attention", "key", torch.zeros(2, 70, 120).half(), "key has dtype float16, expected float32"),
    # strides
    Mistake(
        "gather", "packed", torch.zeros(2, 20, 7).transpose(1, 2), "packed has strides [140, 1, 7] for shape [2, 7, 20]"
    ),
    Mistake("scatter", "packed", torch.zeros(2, 12, 8)[..., ::2], "packed has strides [96, 8, 2] for shape [2, 12, 4]"),
    Mistake("sparse_conv2d", "weight", torch.zeros(180, 12).T, "weight has strides"),
    Mistake("blend_rows", "rows", list(torch.zeros(3, 2, 64, 200).mT), "rows[0] has strides [12800, 1, 200] for shape"),
    # the index range
    Mistake(
        "gather",
        "index",
        torch.full((5, 9), 16, dtype=torch.int32),
        "index has an entry out of range at flat position 0",
    ),
    Mistake("gather", "index", torch.full((5, 9), -2, dtype=torch.int32), "expected every entry in [-1, 16)"),
    Mistake("gather", "index", torch.full((5, 9), 2**31 - 1, dtype=torch.int32), "index has an entry out of range"),
    Mistake(
        "scatter",
        "index",
        torch.arange(24, 36, dtype=torch.int32),
        "index has an entry out of range at flat position 11",
    ),
    Mistake(
        "scatter",
        "index",
        torch.zeros(12, dtype=torch.int32),
        "index names position 0 twice, expected each at most once",
    ),
    Mistake(
        "update_group_stats", "index", torch.full((70,), 200, dtype=torch.int32), "expected every entry in [-1, 200)"
    ),
    Mistake("blend_rows", "index", torch.full((3,), -1, dtype=torch.int32), "expected every entry in [0, 200)"),
    Mistake("norm_affine", "index", torch.full((70,), 200, dtype=torch.int32), "expected every entry in [-1, 200)"),
    Mistake(
        "block_attention", "index", torch.full((200,), 270, dtype=torch.int32), "expected every entry in [-1, 270)"
    ),
]


@every_backend
@pytest.mark.parametrize("mistake", MISTAKES, ids=[f"{m.op}-{m.argument}-{i}" for i, m in enumerate(MISTAKES)])
def test_message(mistake: Mistake, backend: TestedBackend) -> None:
    if backend.device == "cuda" and "index" in mistake.message and "entry" in mistake.message:
        pytest.skip("the CUDA kernels check index ranges under SIGE_CHECK_INDICES=1 only")
    if backend.device == "cuda" and "twice" in mistake.message:
        pytest.skip("looking for duplicates would wait for the device")
    arguments = sample(mistake.op, backend.device)
    arguments[mistake.argument] = on_tensors(lambda x: x.to(backend.device), mistake.wrong)
    with pytest.raises(RuntimeError) as caught:
        backend(mistake.op, *arguments.values())
    assert str(caught.value).startswith(f"{mistake.op}: ")
    assert mistake.message in str(caught.value)


def _holds_tensors(value: object) -> bool:
    return isinstance(value[0] if isinstance(value, list) else value, torch.Tensor)


@every_backend
@every_op
def test_a_tensor_on_another_device(op: str, backend: TestedBackend) -> None:
    other = "meta" if backend.device == "cpu" else "cpu"
    if other == "meta" and backend.name != "reference":
        pytest.skip("a meta tensor dispatches to the fake")
    arguments = sample(op, backend.device)
    tensors = [name for name, value in arguments.items() if _holds_tensors(value)]
    if len(tensors) < 2:
        pytest.skip("one tensor has no other device to be on")
    arguments[tensors[1]] = on_tensors(lambda x: x.to(other), arguments[tensors[1]])
    with pytest.raises(RuntimeError, match=rf"{tensors[1]}(\[0\])? is on"):
        backend(op, *arguments.values())


@every_op
def test_a_fake_refuses_what_the_op_refuses(op: str) -> None:
    arguments = sample(op, "meta")
    first = next(iter(arguments))
    arguments[first] = on_tensors(lambda x: x[0], arguments[first])
    with pytest.raises(OpError, match=rf"{op}: {first}(\[0\])? has shape"):
        getattr(torch.ops.sige, op).default(*arguments.values())


def test_an_unknown_activation_is_named() -> None:
    rows = torch.zeros(1, 1, 1)
    with pytest.raises(OpError, match="activation is 'relu', expected one of none, silu"):
        gather(rows, rows, torch.zeros(1, 1, dtype=torch.int32), activation="relu")  # type: ignore[arg-type]


@pytest.mark.gpu
def test_cuda_checks_index_ranges_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGE_CHECK_INDICES", "1")
    rows = torch.zeros(1, 2, 8, device="cuda")
    index = torch.tensor([[0, 1, 7]], dtype=torch.int32, device="cuda")
    with pytest.raises(RuntimeError, match="index has an entry out of range at flat position 2"):
        gather(rows, rows, index)
