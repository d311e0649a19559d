"""The loop: a killed training goes on identically, parts of a batch add up, and errors say why it cannot go on."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sdxl.errors import CheckpointError, InputError, SdxlError
from sdxl.training.loop import LoopConfig, check_resumes, train

CONFIG = LoopConfig(steps=12, batch=8, rate=1e-2, warmup=3, save_every=4)


@dataclass(frozen=True)
class Numbers:
    values: Tensor  # [B, 6]

    def to(self, device: object) -> Numbers:
        return Numbers(self.values.to(device))


def batch_of(step: int, share: tuple[int, int]) -> Numbers:
    rank, world = share
    rows = [np.random.default_rng([1, step, place]).standard_normal(6) for place in range(8)]
    return Numbers(torch.tensor(np.array(rows[rank * 8 // world : (rank + 1) * 8 // world]), dtype=torch.float32))


class Net(nn.Module):
    """Learns to sum its inputs; `fail_at` makes the loss of that call infinite, or raises."""

    def __init__(self, stop: int | None = None, nan: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(6, 16), nn.SiLU(), nn.Linear(16, 1))
        self.calls, self.stop, self.nan = 0, stop, nan

    def forward(self, batch: Numbers) -> Tensor:
        self.calls += 1
        if self.calls == self.stop:
            raise KeyboardInterrupt
        loss = (self.layers(batch.values)[:, 0] - batch.values.sum(dim=1)).square().mean()
        return loss * (float("nan") if self.calls == self.nan else 1)


def weights(net: Net) -> Tensor:
    return torch.cat([value.detach().flatten() for value in net.parameters()])


def curve(folder: Path) -> list[list[str]]:
    return list(csv.reader((folder / "loss.csv").read_text().splitlines()))


def test_the_loss_falls_and_is_written_down(tmp_path: Path) -> None:
    train(Net(), batch_of, replace(CONFIG, steps=200), tmp_path)
    head, *rows = curve(tmp_path)
    assert head == ["step", "loss", "rate"] and [int(row[0]) for row in rows] == list(range(200))
    assert float(rows[-1][1]) < 0.2 * float(rows[0][1])


@pytest.mark.parametrize("stop", [2, 6, 9, 12])
def test_a_run_that_was_killed_goes_on_identically(tmp_path: Path, stop: int) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    net = Net()
    average = train(net, batch_of, CONFIG, whole)
    with pytest.raises(KeyboardInterrupt):
        train(Net(stop=stop), batch_of, CONFIG, killed)
    again = Net()
    average_again = train(again, batch_of, CONFIG, killed)
    assert again.calls == 12 - 4 * ((stop - 1) // 4), "it goes on from the last state"
    assert curve(killed) == curve(whole)
    assert torch.equal(weights(again), weights(net))
    assert all(torch.equal(average.values[name], average_again.values[name]) for name in average.values)


def test_accumulated_parts_are_the_whole_batch(tmp_path: Path) -> None:
    whole, parts = Net(), Net()
    train(whole, batch_of, CONFIG, tmp_path / "whole")
    train(parts, batch_of, replace(CONFIG, accumulate=4), tmp_path / "parts")
    torch.testing.assert_close(weights(parts), weights(whole), rtol=1e-5, atol=1e-6)


def test_the_state_of_another_run_is_refused(tmp_path: Path) -> None:
    train(Net(), batch_of, CONFIG, tmp_path)
    with pytest.raises(CheckpointError, match=r"is of another run \(loop.rate 0.01 -> 0.5\)"):
        train(Net(), batch_of, replace(CONFIG, rate=0.5), tmp_path)
    train(Net(), batch_of, replace(CONFIG, save_every=1), tmp_path)
    (tmp_path / "state.pt").write_bytes(b"junk")
    with pytest.raises(CheckpointError, match="cannot be read"):
        train(Net(), batch_of, CONFIG, tmp_path)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_state(tmp_path: Path) -> None:
    with pytest.raises(SdxlError, match="step 5: the loss is nan"):
        train(Net(nan=6), batch_of, CONFIG, tmp_path)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 4


NONSENSE = [
    {"steps": 0}, {"batch": 0}, {"accumulate": 0}, {"precision": "int8"}, {"steps": 10**400}, {"warmup": -1},
    {"rate": float("nan")}, {"rate": float("inf")}, {"decay": 1.5}, {"clip": -1.0}, {"sample_every": -1},
]  # fmt: skip


@pytest.mark.parametrize("bad", NONSENSE, ids=lambda bad: next(iter(bad)))
def test_numbers_that_make_no_sense_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(bad))}: got"):
        replace(CONFIG, **bad)  # type: ignore[arg-type]


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a multiple of"):
        train(Net(), batch_of, replace(CONFIG, accumulate=3), tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00\xff\x1b[2J", b"step,loss,rate\nx,y,z\n0,1", b'"' + b"a" * 200_000, b"step,loss,rate\n" + b"9" * 5000],
)
def test_a_damaged_table_of_losses_begins_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "loss.csv").write_bytes(content)
    train(Net(), batch_of, replace(CONFIG, steps=2), tmp_path)
    assert [row[0] for row in curve(tmp_path)] == ["step", "0", "1"]


def test_the_identity_is_part_of_the_state(tmp_path: Path) -> None:
    train(Net(), batch_of, CONFIG, tmp_path, identity={"seed": 0})
    check_resumes(CONFIG, tmp_path, {"seed": 0})
    with pytest.raises(CheckpointError, match=r"is of another run \(seed 0 -> 1\)"):
        train(Net(), batch_of, CONFIG, tmp_path, identity={"seed": 1})
    with pytest.raises(CheckpointError, match=r"is of another run \(seed 0 -> 1\)"):
        check_resumes(CONFIG, tmp_path, {"seed": 1})
