"""csrc/common/fast_divisor.h divides exactly: compiled by itself, against Python's integers."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

CSRC = Path(__file__).resolve().parent.parent.parent / "csrc"
LARGEST = 2**63 - 1
SOURCE = """
#include "common/fast_divisor.h"
extern "C" int64_t quotient(int64_t n, int64_t divisor) { return n / sige::FastDivisor(divisor); }
extern "C" int64_t remainder_of(int64_t n, int64_t divisor) { return n % sige::FastDivisor(divisor); }
"""
Divide = Callable[[int, int], tuple[int, int]]


@pytest.fixture(scope="module")
def divide(tmp_path_factory: pytest.TempPathFactory) -> Divide:
    source = tmp_path_factory.mktemp("divisor") / "divide.cpp"
    source.write_text(SOURCE)
    library = source.with_suffix(".so")
    compiler = os.environ.get("CXX", "g++")
    subprocess.run([compiler, "-std=c++17", "-O1", "-shared", "-fPIC", f"-I{CSRC}", source, "-o", library], check=True)
    functions = ctypes.CDLL(str(library))
    for function in (functions.quotient, functions.remainder_of):
        function.argtypes, function.restype = [ctypes.c_int64, ctypes.c_int64], ctypes.c_int64
    return lambda n, divisor: (functions.quotient(n, divisor), functions.remainder_of(n, divisor))


powers = st.integers(0, 62).map(lambda exponent: 1 << exponent)
near_powers = st.tuples(powers, st.integers(-1, 1)).map(sum).filter(lambda number: number >= 1)
divisors = st.one_of(st.integers(1, 10_000), near_powers, st.integers(1, LARGEST))


@given(divisor=divisors, factor=st.integers(0, LARGEST), offset=st.integers(-1, 1))
@example(divisor=LARGEST, factor=1, offset=0)
@example(divisor=LARGEST, factor=1, offset=-1)
@example(divisor=1, factor=LARGEST, offset=0)
@example(divisor=2**62 + 1, factor=1, offset=0)
def test_at_multiples_of_the_divisor(divide: Divide, divisor: int, factor: int, offset: int) -> None:
    multiple = factor % (LARGEST // divisor + 1) * divisor
    n = min(max(multiple + offset, 0), LARGEST)
    assert divide(n, divisor) == divmod(n, divisor)


@given(divisor=divisors, n=st.integers(0, LARGEST))
def test_anywhere(divide: Divide, divisor: int, n: int) -> None:
    assert divide(n, divisor) == divmod(n, divisor)


@pytest.mark.parametrize("divisor", [1, 2, 3, 9, 4096, 10_647, 2**31 - 1, 2**31, LARGEST])
def test_the_largest_number(divide: Divide, divisor: int) -> None:
    assert divide(LARGEST, divisor) == divmod(LARGEST, divisor)
