"""The description of a file, from its header alone."""

from __future__ import annotations

import doctest
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sdxl.checkpoint.configs import KINDS
from sdxl.checkpoint.load import Parts
from sdxl.checkpoint.tensors import TensorReader
from sdxl.checkpoint.tiny import tiny_weights
from sdxl.commands import inspect
from sdxl.commands.convert import convert
from sdxl.commands.inspect import describe, main


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind(
    kind: str, tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch, original: Callable[[str], Parts]
) -> None:
    monkeypatch.setattr(TensorReader, "__init__", None)  # no weights are read
    facts = describe(tiny[kind])
    assert (facts["kind"], facts["layout"], facts["config"]) == (kind, "single file", "tiny")
    assert facts["bytes"] == tiny[kind].stat().st_size
    assert list(facts["dtypes"]) == ["F32"]
    assert facts["projections"] == ("conv" if kind.startswith("sd15") else "linear")
    parts = original(kind).models()
    assert facts["parameters"] == {
        part: sum(parameter.numel() for parameter in model.parameters()) for part, model in parts.items()
    }


def test_converted_files(tiny: dict[str, Path], tmp_path: Path) -> None:
    convert(tiny["sdxl-base"], tmp_path / "x.safetensors", dtype=torch.bfloat16, progress=False)
    facts = describe(tmp_path / "x.safetensors")
    assert facts["projections"] == "conv"
    assert list(facts["dtypes"]) == ["BF16"]


def test_the_command_prints_a_text_or_json(tiny: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tiny["sdxl-refiner"])]) == 0
    text = capsys.readouterr().out
    for word in ("sdxl-refiner, single file", "GB in ", "F32", "linear", "unet", " parameters", "sige.kind"):
        assert word in text
    assert main([str(tiny["sdxl-refiner"]), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == describe(tiny["sdxl-refiner"])


def test_what_is_not_known_is_described_as_far_as_it_goes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"a.lora_down.weight": torch.zeros(4, 2)}, tmp_path / "x.safetensors")
    facts = describe(tmp_path / "x.safetensors")
    assert facts["kind"] == "unknown" and facts["reason"].startswith("is a LoRA")
    assert facts["parameters"] == {"all": 8}
    assert main([str(tmp_path / "x.safetensors")]) == 0
    assert "is a LoRA" in capsys.readouterr().out


def test_mistakes_end_with_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    for arguments in ([str(tmp_path / "junk.safetensors")], [str(tmp_path / "absent")], []):
        assert main(arguments) == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith("error: ") and "\n" not in error


def test_examples(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SIGE_CACHE", str(tmp_path))
    found = doctest.testmod(inspect, extraglobs={"tiny_weights": tiny_weights})
    assert found.attempted and not found.failed


def write_header(path: Path, content: dict[str, object]) -> Path:
    text = json.dumps(content).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    return path


def test_names_that_steer_a_terminal_are_shown_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensor = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    facts = {"\x1b[2Jtitle": "a\nb\x07" + "c" * 200}
    path = write_header(tmp_path / "x.safetensors", {"__metadata__": facts, "lora_up\x1b]0;.": tensor})
    assert main([str(path)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\x07" not in out and "\\x1b[2Jtitle: a b\\x07ccc" in out
    assert max(map(len, out.splitlines())) < 300


def test_names_with_halves_of_characters_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensor = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    path = write_header(tmp_path / "x.safetensors", {"a\ud800": tensor})
    for words in ([str(path)], [str(path), "--json"]):
        assert main(words) == 2
        assert capsys.readouterr().err.count("\n") == 1
