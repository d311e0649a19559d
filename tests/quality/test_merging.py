"""Token merging among the ways that are compared."""

from __future__ import annotations

import pytest
import torch

import sige
from benchmarks import tome as table
from benchmarks.quality.merging import fewer_keys, merged
from benchmarks.quality.ways import Merged, select
from sige.packed import attention
from tests.models.state import fresh, hooks
from tests.models.test_properties import relative_error

BALANCED = "temporal-7 growing rising d0 balanced"


def test_a_name_says_what_merges() -> None:
    names = [f"{BALANCED}, tome 0.5 level 2", f"{BALANCED}, keys 0.25", "tome 0.5 level 4"]
    ways = select(names, 30)
    assert [way.name for way in ways] == names
    assert [(way.ratio, way.level) for way in ways if isinstance(way, Merged)] == [(0.5, 2), (0.25, None)]


def test_inside_the_unet_merges_and_afterwards_not() -> None:
    made = fresh("sdxl-base")
    with pytest.raises(ZeroDivisionError), merged(made.model, 0.5, 2):
        assert hooks(made.model) > 0
        raise ZeroDivisionError
    assert hooks(made.model) == 0


def test_packed_attention_reads_fewer_recorded_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    made = fresh("sd15")
    x, edited = made.input(1, 2), made.input(2, 2)
    read: list[int] = []
    own = attention.block_attention

    def counted(*args: torch.Tensor) -> torch.Tensor:
        read.append(len(args[5]))
        return own(*args)

    monkeypatch.setattr(attention, "block_attention", counted)
    outs = []
    with sige.enable(made.model) as handle:
        with handle.record() as one:
            made.call(x)
        for blend in ([(one, 1.0)], [(one, 0.5), (one, 0.5)]):
            for ratio in (0.0, 0.5):
                with fewer_keys(ratio), handle.edit(made.rectangle(2, 3, 4, 4), blend=blend):
                    outs.append(made.call(edited))
    assert attention.block_attention is counted
    every, fewer = read[: len(read) // 4], read[len(read) // 4 : len(read) // 2]
    assert max(every) == 256 and fewer[0] == 256 - (256 - 16) // 2
    assert sum(fewer) < 0.7 * sum(every)
    assert 1e-4 < relative_error(outs[1], outs[0]) < 0.5
    assert relative_error(outs[3], outs[1]) < 1e-4  # a blend of two equal recordings


def test_the_table_counts_fewer_multiply_accumulates_at_greater_ratios(capsys: pytest.CaptureFixture[str]) -> None:
    table.main(["--tables", "sd15-512", "--count"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip().startswith("sd15-512")]
    assert [line[1] for line in lines] == ["0", "0.25", "0.5", "0.75"]
    shares = [float(line[-1]) for line in lines]
    assert shares[0] == 1 and shares == sorted(shares, reverse=True) and 0.8 < shares[-1] < 0.9
