"""The benchmarks of whole passes, of products and of kernels, on models that are next to nothing."""

from __future__ import annotations

import doctest
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import attention_backends, kernels, packed, products, shares
from benchmarks.harness import parse

TINY = ["shares", "--tiny", "--size", "64x64", "--runs", "1", "--parts", "decoder"]


@pytest.fixture(autouse=True)
def switches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives the environment back what a benchmark sets in its process."""
    monkeypatch.setenv("SIGE_PROGRAMS", "auto")


def written(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def test_dense_ways_stand_beside_packed_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """aot_eager traces as every backend of torch.compile does, and generates no code."""
    flags = ["--dense", "both", "--backend", "aot_eager", "--modes", "default", "--shares", "10", "--recordings", "1,3"]
    packed.main([*TINY, *flags, "--json", str(tmp_path / "shares.json")])
    said = written(tmp_path / "shares.json")
    assert said["notes"] == [] and said["settings"]["size"] == [64, 64]
    for row, recordings in zip(said["rows"], (1, 3), strict=True):
        assert (row["recordings"], row["share %"], row["same bits"]) == (recordings, 10, True)
        assert row["why no program"] == ""
        assert row["times"].keys() == {"eager", "compiled default", "layers", "program"}
        assert row["best dense"] in ("eager", "compiled default") and row["best packed"] in ("layers", "program")
        assert row["dense ms"]["median"] == min(row["times"][name]["median"] for name in ("eager", "compiled default"))
        assert row["compiled error"]["compiled default"] < 1e-5
    assert "compiled default" in capsys.readouterr().out


def test_a_compiler_that_fails_costs_its_own_way_only(tmp_path: Path) -> None:
    flags = ["--dense", "both", "--modes", "no such mode", "--shares", "10"]
    packed.main([*TINY, *flags, "--json", str(tmp_path / "shares.json")])
    said = written(tmp_path / "shares.json")
    assert said["rows"][0]["best dense"] == "eager"
    assert "no such mode" in said["notes"][0]


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_a_mode_reaches_the_compiler(mode: str) -> None:
    """One small kernel: a whole model, even a tiny one, would compile for minutes here."""
    x = torch.randn(2, 4, 8, 8)
    compiled = shares._compiled(lambda sample: sample * 2 + 1, mode, "inductor")
    torch.testing.assert_close(compiled(x), x * 2 + 1)


def test_what_there_was_no_time_for_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="raise --cap"):
        packed.main([*TINY, "--cap", "0", "--json", str(tmp_path / "shares.json")])
    assert written(tmp_path / "shares.json")["notes"] == ["decoder fp32: left out, the time is up"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--parts", "unet,encoder"], "got encoder, expected some of unet, decoder"),
        (["--size", "big"], "got 'big', expected height x width"),
        (["--shares", "0"], "expected a percentage"),
        (["--recordings", "4"], "got 4, expected some of 1, 2, 3"),
        (["--runs", "0"], "--runs must be at least 1"),
    ],
)
def test_wrong_flags_cost_a_sentence(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        packed.main(flags)
    assert said in capsys.readouterr().err


# ---- products and attention -----------------------------------------------------------------------------------------


def test_products_are_measured_per_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "LINEAR", ((32, 64),))
    monkeypatch.setattr(products, "CONVOLUTIONS", ((32, 32),))
    monkeypatch.setitem(products.COLD_BYTES, "cpu", 1000)
    rows = products.measure(parse(None, ["--runs", "1", "--device", "cpu"]))
    assert [(row["layer"], row["M"], row["K"], row["N"]) for row in rows] == [
        *(("linear", 288, 32, 64), ("3x3", 288, 288, 32)),
        *(("linear", 968, 32, 64), ("3x3", 968, 288, 32)),
    ]
    assert all(row["op +/torch +"] > 0 and row["torch TFLOP/s"] > 0 for row in rows)


def test_every_backend_of_sdpa_has_a_time_or_a_dash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_backends, "SHAPES", ((9, 64, 2, 8), (9, 7, 2, 8), (9, 64, 1, 264)))
    rows = attention_backends.measure(parse(None, ["--runs", "1", "--device", "cpu"]))
    for row in rows:
        assert row["math us"] > 0 and row["op us"] > 0 and row["cudnn us"] == "-"
        assert row["best SDPA"] in ("auto", "flash", "math")
    assert [row["wide us"] == row["wide/best"] == "-" for row in rows] == [True, True, False]
    assert rows[2]["wide us"] > 0 and rows[2]["wide/best"] > 0


# ---- kernels --------------------------------------------------------------------------------------------------------


def test_the_name_of_a_kernel_is_what_ncu_takes() -> None:
    assert doctest.testmod(kernels).failed == 0


NCU = """#!/bin/bash
for word in "$@"; do case "$word" in *group_stats*) echo "==ERROR== ERR_NVGPUCTRPERM"; exit 1;; esac; done
echo "asked: $*"
"""


def test_ncu_looks_at_the_slowest_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command that a stand-in for ncu gets; one kernel that it refuses fails the whole."""
    ncu = tmp_path / "ncu"
    ncu.write_text(NCU)
    ncu.chmod(0o755)
    monkeypatch.setattr(kernels, "find_ncu", lambda: str(ncu))
    options = kernels._parse(["--device", "cpu", "--part", "decoder", "--ncu", str(tmp_path / "ncu-out")])
    rows = kernels.look(["gemm_kernel", "group_stats"], options)
    assert [row["ncu"] for row in rows] == ["ok", "==ERROR== ERR_NVGPUCTRPERM"]
    said = (tmp_path / "ncu-out" / "ncu-1.txt").read_text()
    assert "--clock-control none" in said and "regex:^gemm_kernel$ --launch-count 3" in said
    assert "--under-ncu --part=decoder --dtype=fp32 --share=10 --size=1024x1024 --device=cpu" in said


def test_kernels_of_a_packed_pass_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--tiny", "--size", "64x64", "--part", "decoder", "--device", "cpu", "--dtype", "fp32"]
    kernels.main([*flags, "--json", str(tmp_path / "kernels.json")])
    rows = written(tmp_path / "kernels.json")["rows"]
    assert any(row["name"] == "sige::sparse_conv2d" for row in rows)
    assert [row["us a pass"] for row in rows] == sorted((row["us a pass"] for row in rows), reverse=True)
    assert "sparse_conv2d" in capsys.readouterr().out


def test_without_ncu_a_line_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(kernels, "find_ncu", lambda: None)
    options = kernels._parse(["--device", "cpu", "--ncu", "out"])
    assert kernels.look(["gemm"], options) == []
    assert "ncu is not on PATH: install Nsight Compute, or leave --ncu out" in capsys.readouterr().out
