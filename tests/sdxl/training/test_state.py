"""The state of a training: any content is read or refused in one line, and another training's is refused by name."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sdxl.errors import CheckpointError
from sdxl.training.ema import Average
from sdxl.training.state import check_state, load_state, save_state

ABOUT = {"seed": 0, "min_snr": None, "loop.rate": 0.01}


class Trained:
    """A module with an optimizer that has made a step."""

    def __init__(self, size: int = 3) -> None:
        torch.manual_seed(0)
        self.module = nn.Linear(size, 2)
        self.optimizer = torch.optim.AdamW(self.module.parameters(), 0.1)
        self.average = Average(self.module, 0.9)
        self.step()

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.module(torch.ones(1, self.module.in_features)).sum().backward()
        self.optimizer.step()

    def save(self, path: Path, about: dict[str, Any] = ABOUT) -> None:
        save_state(path, 4, self.module, self.optimizer, self.average, about)

    def load(self, path: Path, about: dict[str, Any] = ABOUT) -> int:
        return load_state(path, self.module, self.optimizer, self.average, about)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Trained().save(tmp_path / "state.pt")
    return tmp_path / "state.pt"


def test_a_state_goes_on_with_the_same_step(path: Path) -> None:
    one, other = Trained(), Trained()
    one.step()
    other.step()
    other.step()
    assert other.load(path) == 4
    other.step()
    assert torch.equal(one.module.weight, other.module.weight)


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [("seed", 1, "seed 0 -> 1"), ("min_snr", 5.0, "min_snr None -> 5.0"), ("drop", 0.2, "drop None -> 0.2")],
)
def test_the_state_of_another_training_is_refused_by_what_differs(
    path: Path, key: str, value: object, what: str
) -> None:
    for check in (Trained().load, check_state):
        with pytest.raises(CheckpointError, match=rf"is of another run \({what}\): take another folder"):
            check(path, ABOUT | {key: value})


def nested() -> list[Any]:
    """Sixty lists of two, each of them twice the one inside: it is small in memory, and endless as a text."""
    value: list[Any] = []
    for _ in range(60):
        value = [value, value]
    return value


Change = Callable[[dict[str, Any]], object]
CHANGED: dict[str, Change] = {
    "no step": lambda state: state.pop("step"),
    "a step before the first": lambda state: state.update(step=-1),
    "a step of many digits": lambda state: state.update(step=10**30),
    "a step that is a word": lambda state: state.update(step="4"),
    "no weights": lambda state: state.update(weights={}),
    "weights of another shape": lambda state: state["weights"].update(weight=torch.zeros(3, 3)),
    "weights that are numbers": lambda state: state["weights"].update(weight=3),
    "an average that is a list": lambda state: state.update(average=[1, 2]),
    "an average of whole numbers": lambda state: state["average"].update(bias=torch.zeros(2, dtype=torch.int32)),
    "no optimizer": lambda state: state.pop("optimizer"),
    "moments of another shape": lambda state: state["optimizer"][0].update(exp_avg=torch.zeros(1)),
    "moments without steps": lambda state: state["optimizer"][1].pop("step"),
    "moments of more parameters": lambda state: state["optimizer"].update({7: {}}),
    "no settings": lambda state: state.update(about=None),
    "endless settings": lambda state: state.update(about=ABOUT | {"seed": nested()}),
}


@pytest.mark.parametrize("change", CHANGED.values(), ids=CHANGED)
def test_a_state_that_says_something_else_is_refused(path: Path, change: Change) -> None:
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)
    trained = Trained()
    before = trained.module.weight.clone()
    with pytest.raises(CheckpointError, match="cannot be read: .*; remove it|is of another run") as caught:
        trained.load(path)
    assert len(str(caught.value)) < 1000
    assert torch.equal(trained.module.weight, before), "nothing of it was taken over"


def compressed(content: bytes) -> bytes:
    """The same archive with its parts compressed, as a bomb would have them."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    return out.getvalue()


FILES: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda content: b"",
    "junk": lambda content: b"junk" * 100,
    "half": lambda content: content[: len(content) // 2],
    "a pickle": lambda content: b"\x80\x02}q\x00.",
    "compressed": compressed,
}


@pytest.mark.parametrize("damage", FILES.values(), ids=FILES)
def test_a_file_that_is_no_state_is_refused(path: Path, damage: Callable[[bytes], bytes]) -> None:
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match="cannot be read: .*; remove it, and the training begins anew"):
        Trained().load(path)


def test_other_weights_are_refused(path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read: weight has another shape"):
        Trained(size=4).load(path)
