"""Several linear layers of the same rows run as one op where all of them are plain, and one by one elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import sige
from sige.ops import MOST_LAYERS
from sige.packed.linear import linear, linear_each
from sige.recordings import Patch
from tests.models.tiny import every_case, make_case

ROWS, CHANNELS, OUT = 5, 16, 12


class Names(TorchDispatchMode):
    """Counts the ops of ours that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name.startswith("sige::"):
            self.called.append(func._schema.name)
        return func(*args, **(kwargs or {}))


class Doubled(nn.Linear):
    """A layer of another class, as adapters and quantised layers are."""

    def forward(self, rows: Tensor) -> Tensor:
        return 2 * super().forward(rows)


def three(bias: bool) -> list[nn.Module]:
    torch.manual_seed(0)
    return [nn.Linear(CHANNELS, OUT, bias=bias) for _ in range(3)]


@torch.no_grad()
def outputs(layers: list[nn.Module]) -> tuple[list[str], bool]:
    """The ops of ours that `linear_each` calls, and whether its outputs are those of the layers one by one."""
    rows = torch.randn(2, ROWS, CHANNELS)
    with Names() as names:
        results = linear_each(rows, layers)
    expected = [linear(rows, layer) for layer in layers]
    assert all(result.is_contiguous() for result in results)
    return names.called, all(map(torch.equal, results, expected)) and len(results) == len(layers)


@pytest.mark.parametrize("bias", [True, False])
def test_plain_layers_are_one_call(bias: bool) -> None:
    called, same = outputs(three(bias))
    assert called == ["sige::linear_stack"]
    assert same


def hook(layers: list[nn.Module]) -> None:
    layers[1].register_forward_hook(lambda _module, _args, output: 2 * output)


def replace_forward(layers: list[nn.Module]) -> None:
    forward = layers[1].forward
    layers[1].forward = lambda rows: 2 * forward(rows)


def take_another_class(layers: list[nn.Module]) -> None:
    layers[1] = Doubled(CHANNELS, OUT)


def take_another_size(layers: list[nn.Module]) -> None:
    layers[1] = nn.Linear(CHANNELS, OUT + 4)


def drop_a_bias(layers: list[nn.Module]) -> None:
    layers[1] = nn.Linear(CHANNELS, OUT, bias=False)


def add_layers(layers: list[nn.Module]) -> None:
    layers += [nn.Linear(CHANNELS, OUT) for _ in range(MOST_LAYERS)]


@pytest.mark.parametrize(
    "change", [hook, replace_forward, take_another_class, take_another_size, drop_a_bias, add_layers]
)
def test_other_layers_run_one_by_one(change: Callable[[list[nn.Module]], None]) -> None:
    layers = three(bias=True)
    change(layers)
    called, same = outputs(layers)
    assert "sige::linear_stack" not in called
    assert same


@every_case
def test_rows_that_a_patch_keeps_hold_no_other_memory(case: str) -> None:
    """Keys and values lie in one memory with the queries, which nobody keeps."""
    made = make_case(case)
    with sige.enable(made.model) as handle:
        with handle.record() as recording:
            made.call(made.input(1))
        patch = Patch(made.rectangle(2, 3, 4, 3))
        with handle.edit(patch.region, blend=[(recording, 1.0)], patch=patch):
            for seed in (2, 3, 4):  # the layers, then a program
                made.call(made.input(seed))
                assert patch.rows
                assert all(rows.untyped_storage().nbytes() == rows.nbytes for rows in patch.rows.values())
