"""The CUDA index check, on the CPU shim: its one number per device, the slot it finds, and a captured stream."""

from __future__ import annotations

import ctypes

import pytest
import torch
from torch import Tensor

from tests.ops.backends import ALL, SHIM, TestedBackend


@pytest.fixture
def shim() -> TestedBackend:
    return next(parameter.values[0] for parameter in ALL if parameter.id == "cuda-shim")


def checked_gather(
    shim: TestedBackend,
    index: Tensor,  # int32 [N_out, T]
) -> Tensor:
    rows = torch.zeros(1, 2, 8)
    return shim("gather", rows, rows, index, None, None, 0)


def test_it_allocates_once(shim: TestedBackend) -> None:
    index = torch.zeros(3, 9, dtype=torch.int32)
    checked_gather(shim, index)
    allocations = ctypes.CDLL(str(SHIM)).sige_shim_allocations
    before = allocations()
    for _ in range(3):
        checked_gather(shim, index)
    assert before == 1
    assert allocations() == before


def test_it_names_the_first_of_several_slots_and_forgets_them(shim: TestedBackend) -> None:
    index = torch.zeros(100, 9, dtype=torch.int32)
    for slot in (899, 700, 333):  # more threads than one block has
        index.view(-1)[slot] = 4
        with pytest.raises(RuntimeError, match=f"gather: index has an entry out of range at flat position {slot},"):
            checked_gather(shim, index)
    checked_gather(shim, torch.zeros(100, 9, dtype=torch.int32))


def test_a_captured_stream_is_refused(shim: TestedBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    index = torch.zeros(3, 9, dtype=torch.int32)
    checked_gather(shim, index)
    monkeypatch.setenv("SIGE_SHIM_CAPTURES", "1")
    with pytest.raises(RuntimeError, match="unset SIGE_CHECK_INDICES while you capture"):
        checked_gather(shim, index)
    monkeypatch.delenv("SIGE_SHIM_CAPTURES")
    checked_gather(shim, index)
