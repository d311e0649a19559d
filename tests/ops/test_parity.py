"""Every implementation of every op equals the definition in fp64, and torch's own checks of a custom op pass."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest
import torch
from torch import Tensor

import sige.ops
from sige.ops.registry import OPS
from tests.ops.backends import ALL, TestedBackend, as_outputs, every_backend, every_dtype, every_op
from tests.ops.samples import on_tensors, reference, sample_inputs
from tests.tolerances import STATS_TOLERANCE, assert_close

registered = pytest.mark.parametrize("backend", [ALL[0], ALL[-1]])  # the ones that torch.ops.sige calls: CPU, CUDA


@every_backend
@every_op
@every_dtype
def test_equals_the_definition_in_fp64(op: str, dtype: torch.dtype, backend: TestedBackend) -> None:
    for arguments in sample_inputs(op, backend.device, dtype):
        results = backend.result(op, arguments)
        if op.endswith("group_stats"):
            _assert_stats_close(results[0], op, arguments)
            continue
        for out, expected in zip(results, reference(op, arguments), strict=True):
            assert out.dtype == (torch.float32 if op == "norm_affine" else dtype)
            assert_close(out, expected, out.dtype)


def _assert_stats_close(out: Tensor, op: str, arguments: tuple[object, ...]) -> None:
    assert out.dtype == torch.float64
    tensors = [value for value in arguments[op == "update_group_stats" :] if isinstance(value, Tensor)]
    groups = out.shape[1]
    magnitudes = sum(
        OPS["group_stats"].reference(rows.abs().cpu(), groups) for rows in tensors if rows.is_floating_point()
    )
    error = (out.cpu() - reference(op, arguments)[0]).abs()
    assert (error <= STATS_TOLERANCE * magnitudes + 1e-30).all(), error.max()


@registered
@every_op
@every_dtype
def test_opcheck(op: str, dtype: torch.dtype, backend: TestedBackend) -> None:
    for arguments in sample_inputs(op, backend.device, dtype)[:2]:
        torch.library.opcheck(getattr(torch.ops.sige, op).default, arguments)


@registered
@every_op
def test_fake_has_the_layout_of_the_real_output(op: str, backend: TestedBackend) -> None:
    for arguments in sample_inputs(op, backend.device, torch.float16):
        real = backend(op, *arguments)
        on_meta = [on_tensors(lambda x: x.to("meta"), value) for value in arguments]
        fake = getattr(torch.ops.sige, op).default(*on_meta)
        layouts = [[(x.shape, x.dtype, x.stride()) for x in as_outputs(result)] for result in (real, fake)]
        assert layouts[0] == layouts[1]
        assert type(real) is type(fake)


@registered
@every_op
def test_compiles_into_one_graph(op: str, backend: TestedBackend) -> None:
    torch.compiler.reset()  # otherwise earlier ops count towards the limit of recompilations
    arguments = sample_inputs(op, backend.device, torch.float32)[0]

    def run(*arguments: object) -> tuple[Tensor, ...]:
        return backend.result(op, arguments)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    assert all(map(torch.equal, compiled(*arguments), run(*arguments)))


@every_backend
@every_op
def test_same_input_same_bits(op: str, backend: TestedBackend) -> None:
    arguments = sample_inputs(op, backend.device, torch.float32)[0]
    assert all(map(torch.equal, backend.result(op, arguments), backend.result(op, arguments)))


@every_backend
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_conversions_round_to_nearest_even(dtype: torch.dtype, backend: TestedBackend) -> None:
    """The op reads every bit pattern of the 16-bit types, scales it in fp32 and stores it: also subnormals and NaN."""
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    rows = patterns.reshape(1, 1, -1)  # [1, 1, 65536]
    for factor in (1.0, 1.0 + 2.0**-9, 2.0**-7 * 1.1, 255.3):
        scale = torch.full((1, rows.shape[2]), factor)
        arguments = (rows, rows[:, :0], torch.zeros(1, 1, dtype=torch.int32), scale, torch.zeros_like(scale))
        out = backend("gather", *(value.to(backend.device) for value in arguments), 0)
        assert out is not None
        expected = (rows.float() * factor).to(dtype)
        same = (out.cpu() == expected) | (out.cpu().isnan() & expected.isnan())
        assert same.all(), (factor, rows[~same][:4], out.cpu()[~same][:4], expected[~same][:4])


def test_stats_do_not_depend_on_the_number_of_threads() -> None:
    rows = torch.randn(2, 1000, 320)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(sige.ops.group_stats(rows, 32))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


def test_our_product_does_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads take chunks of columns in any order; three blocks of K are added in one order, over three of rows."""
    monkeypatch.setenv("SIGE_PRODUCT", "own")
    rows, weight, bias = torch.randn(1, 200, 6000), torch.randn(100, 6000), torch.randn(100)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = sige.ops.linear(rows, weight, bias)
        for count in (2, 3, 5, 40):
            torch.set_num_threads(count)
            for _ in range(10):
                assert torch.equal(sige.ops.linear(rows, weight, bias), expected), count
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", [module.name for module in pkgutil.iter_modules(sige.ops.__path__)])
def test_examples_in_docstrings(name: str) -> None:
    assert doctest.testmod(importlib.import_module(f"sige.ops.{name}")).failed == 0
