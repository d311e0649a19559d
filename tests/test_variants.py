"""The op tests once more in another process: narrower CPU kernels, the reference as the backend, the shim reversed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sige.ops import backends

ROOT = Path(__file__).resolve().parent.parent


def run_op_tests(select: str, **environment: str) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/ops", "-k", select]
    result = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-5000:]
    return result.stdout.splitlines()[-1]


@pytest.mark.skipif(not backends()[0].native, reason="the native CPU library is not in use")
@pytest.mark.parametrize("variant", ["portable", "avx2"])
def test_op_tests_pass_on_a_narrower_cpu_variant(variant: str) -> None:
    summary = run_op_tests("native and (equals or region or bits)", SIGE_CPU_VARIANT=variant)
    assert int(re.search(r"(\d+) passed", summary)[1]) > 50, summary  # type: ignore[index]


@pytest.mark.skipif(not backends()[0].native, reason="the native CPU library is not in use")
def test_op_tests_pass_with_our_product() -> None:
    """Elsewhere than on AMD's processors the platform's product is the default."""
    select = "native and (linear or sparse_conv2d) and (equals or bits) or our_product"
    summary = run_op_tests(select, SIGE_PRODUCT="own")
    assert int(re.search(r"(\d+) passed", summary)[1]) >= 9, summary  # type: ignore[index]


def test_op_tests_pass_with_the_reference_as_the_backend() -> None:
    """`torch.ops.sige.*` itself, its opcheck and compile tests included, with no native library in use."""
    select = "reference or opcheck or fake or compiles or docstrings"
    summary = run_op_tests(select, SIGE_BACKEND="reference")
    assert int(re.search(r"(\d+) passed", summary)[1]) > 50, summary  # type: ignore[index]


def test_op_tests_pass_with_the_threads_of_the_shim_reversed() -> None:
    """A missing barrier shows as a wrong result in one order or the other."""
    summary = run_op_tests("shim and (equals or any_region)", SIGE_SHIM_ORDER="reverse")
    assert int(re.search(r"(\d+) passed", summary)[1]) > 20, summary  # type: ignore[index]
