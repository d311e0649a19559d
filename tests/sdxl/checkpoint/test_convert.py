"""The converter: reversible, streaming, atomic, and careful with the user's files."""

from __future__ import annotations

import doctest
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sdxl.checkpoint.header import read_header
from sdxl.checkpoint.keys import is_projection
from sdxl.checkpoint.tensors import Written, write_tensors
from sdxl.commands import convert as convert_module
from sdxl.commands.convert import convert, main
from sdxl.errors import CheckpointError
from sige.errors import OutputError

ROOT = Path(__file__).parents[3]  # an installed package is found anywhere, this one from here
IDS = "conditioner.embedders.0.transformer.text_model.embeddings.position_ids"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@pytest.fixture
def half(tiny: dict[str, Path], tmp_path: Path) -> Path:
    """A small checkpoint like real files: fp16, linear projections, a tensor of integers, metadata."""
    tensors = {name: tensor.half() for name, tensor in load_file(tiny["sdxl-base"]).items()}
    save_file(tensors | {IDS: torch.arange(77)[None]}, tmp_path / "half.safetensors", {"modelspec.title": "SDXL é"})
    return tmp_path / "half.safetensors"


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_by_default_projections_are_convolutions_and_everything_is_fp32(half: Path, tmp_path: Path) -> None:
    assert run(half, tmp_path / "out.safetensors") == 0
    before, after = load_file(half), load_file(tmp_path / "out.safetensors")
    assert set(after) == set(before)
    changed = 0
    for name, tensor in before.items():
        if name == IDS:
            assert after[name].equal(tensor) and after[name].dtype == torch.int64
            continue
        assert after[name].dtype == torch.float32, name
        assert after[name].reshape(tensor.shape).equal(tensor.float()), name
        assert after[name].shape == ((*tensor.shape, 1, 1) if is_projection(name) else tensor.shape), name
        changed += is_projection(name)
    assert changed == 2 * 11
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert file.metadata() == {"modelspec.title": "SDXL é"}


@pytest.mark.parametrize(
    ("dtype", "projections"), [("fp32", "linear"), ("fp16", "conv"), ("bf16", "linear"), ("keep", "conv")]
)
def test_what_is_written_is_what_was_asked_for(dtype: str, projections: str, half: Path, tmp_path: Path) -> None:
    assert run(half, tmp_path / "out.safetensors", "--dtype", dtype, "--projections", projections) == 0
    expected = DTYPES.get(dtype, torch.float16)
    for name, tensor in load_file(tmp_path / "out.safetensors").items():
        assert tensor.dtype == (torch.int64 if name == IDS else expected)
        assert not is_projection(name) or tensor.dim() == (4 if projections == "conv" else 2)


def test_converting_twice_is_converting_once(half: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    convert(half, first, progress=False)
    convert(first, second, progress=False)
    assert first.read_bytes() == second.read_bytes()


def test_the_way_back_gives_the_same_bytes(half: Path, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.safetensors" for number in range(4)]
    convert(half, paths[0], projections="keep", dtype=None, progress=False)
    convert(paths[0], paths[1], progress=False)
    convert(paths[1], paths[2], projections="linear", dtype=torch.float16, progress=False)
    convert(paths[2], paths[3], projections="linear", dtype=None, progress=False)
    assert paths[0].read_bytes() == paths[2].read_bytes() == paths[3].read_bytes()
    original = load_file(half)
    for name, tensor in load_file(paths[2]).items():
        assert tensor.equal(original[name]) and tensor.dtype == original[name].dtype


@pytest.mark.parametrize("stored", [torch.float64, torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16])
def test_other_floats(stored: torch.dtype, tmp_path: Path) -> None:
    before = torch.randn(37, 11).to(stored)
    save_file({"x": before, "empty": torch.zeros(0, 2).half(), "one": torch.tensor(True)}, tmp_path / "in.safetensors")
    convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", progress=False)
    after = load_file(tmp_path / "out.safetensors")
    assert after["x"].equal(before.float())
    assert after["empty"].shape == (0, 2) and after["empty"].dtype == torch.float32
    assert after["one"].dtype == torch.bool and after["one"].item() is True


def test_pieces_are_smaller_than_tensors(half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert(half, tmp_path / "whole.safetensors", progress=False)
    monkeypatch.setattr(convert_module, "PIECE", 7)
    small = {name: tensor for name, tensor in load_file(half).items() if tensor.numel() < 3000}
    save_file(small, tmp_path / "small.safetensors")
    convert(tmp_path / "small.safetensors", tmp_path / "pieces.safetensors", progress=False)
    whole = load_file(tmp_path / "whole.safetensors")
    for name, tensor in load_file(tmp_path / "pieces.safetensors").items():
        assert tensor.equal(whole[name]), name


def test_every_tensor_lies_at_a_multiple_of_its_item_size(tmp_path: Path) -> None:
    """The conversion makes the narrow floats, which are last in the file, the widest tensors."""
    tensors = {"ids": torch.arange(3, dtype=torch.int16), "x": torch.ones(5).to(torch.float8_e4m3fn)}
    save_file(tensors, tmp_path / "in.safetensors")
    convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", progress=False)
    header = read_header(tmp_path / "out.safetensors")
    first = min(stored.start for stored in header.tensors.values())
    for stored in header.tensors.values():
        assert (stored.start - first) % {"I16": 2, "F32": 4}[stored.dtype] == 0 == first % 8


def test_a_value_that_becomes_infinite_is_named(tmp_path: Path) -> None:
    save_file({"small": torch.ones(3), "large": torch.tensor([1e6, 0])}, tmp_path / "in.safetensors")
    with pytest.raises(CheckpointError, match="large: holds values that float16 cannot"):
        convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", dtype=torch.float16, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["in.safetensors"]
    save_file({"broken": torch.tensor([float("nan"), float("inf")])}, tmp_path / "in.safetensors")
    convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", dtype=torch.float16, progress=False)


# ---- the user's files -----------------------------------------------------------------------------------------------


def test_in_place(half: Path, tmp_path: Path) -> None:
    convert(half, tmp_path / "out.safetensors", progress=False)
    assert run(half, "--in_place") == 0
    assert half.read_bytes() == (tmp_path / "out.safetensors").read_bytes()


def test_mistakes_end_with_one_line_and_status_2(
    half: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "junk.safetensors").write_bytes(b"junk junk junk")
    (tmp_path / "there.safetensors").write_bytes(b"precious")
    (tmp_path / "link.safetensors").symlink_to(half)
    before = half.read_bytes()
    for arguments, text in (
        ([half, half], "--in_place"),
        ([half, tmp_path / "link.safetensors"], "--in_place"),
        ([half, tmp_path / "there.safetensors"], "--force"),
        ([half], "OUT is missing"),
        ([half, tmp_path / "x.safetensors", "--in_place"], "leave OUT"),
        ([tmp_path / "absent.safetensors", tmp_path / "x.safetensors"], "no such file"),
        ([tmp_path / "junk.safetensors", tmp_path / "x.safetensors"], "junk.safetensors"),
        ([half, tmp_path / "absent" / "x.safetensors"], "absent"),
        ([half, tmp_path / "x.safetensors", "--dtype", "fp8"], "--dtype"),
        ([half, tmp_path / "x.safetensors", "--projections", "both"], "--projections"),
    ):
        assert run(*arguments) == 2, arguments
        error = capsys.readouterr().err.strip()
        assert error.startswith("error: ") and "\n" not in error and text in error, error
    assert half.read_bytes() == before
    assert (tmp_path / "there.safetensors").read_bytes() == b"precious"
    assert not (tmp_path / "x.safetensors").exists()
    assert run(half, tmp_path / "there.safetensors", "--force") == 0
    assert (tmp_path / "there.safetensors").stat().st_size > len(before)


def test_a_full_disk_is_seen_before_anything_is_written(
    half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=half.stat().st_size + 1000))
    with pytest.raises(OutputError, match="GB free"):
        convert(half, tmp_path / "out.safetensors", progress=False)
    convert(half, tmp_path / "out.safetensors", dtype=None, projections="linear", progress=False)


def test_promise_7_a_disk_that_fills_up_leaves_the_old_file(
    half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = half.read_bytes()
    monkeypatch.setattr("sdxl.checkpoint.tensors._write_all", fail)
    assert run(half, "--in_place") == 2
    assert "the disk is full" in capsys.readouterr().err
    assert half.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["half.safetensors"]


# The child process stops after the first tensor or after the replacement, as it is told, and prints that it waits.
CHILD = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background starts it ignored
import sdxl.checkpoint.tensors as tensors
import sdxl.commands.convert as convert
stage, path = sys.argv[1:]
def stop():
    print("here", flush=True)
    time.sleep(60)
write, replace = tensors._write_all, os.replace
def write_and_stop(file, data):
    write(file, data)
    if file.tell() > 100_000:
        stop()
def replace_and_stop(source, target):
    replace(source, target)
    stop()
if stage == "writing":
    tensors._write_all = write_and_stop
else:
    os.replace = replace_and_stop
sys.exit(convert.main([path, "--in_place"]))
"""


def start(stage: str, path: Path) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, stage, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert child.stdout is not None and child.stdout.readline() == "here\n", child.communicate()
    return child


@pytest.mark.parametrize("stage", ["writing", "replaced"])
def test_promise_7_killed_leaves_the_old_file_or_the_new_one(stage: str, half: Path, tmp_path: Path) -> None:
    before = load_file(half)
    child = start(stage, half)
    child.kill()
    child.wait()
    dtype = torch.float16 if stage == "writing" else torch.float32
    for name, tensor in load_file(half).items():
        assert tensor.reshape(before[name].shape).equal(before[name].to(tensor.dtype))
        assert name == IDS or tensor.dtype == dtype


def test_ctrl_c_leaves_nothing(half: Path, tmp_path: Path) -> None:
    before = half.read_bytes()
    child = start("writing", half)
    child.send_signal(signal.SIGINT)
    _, error = child.communicate(timeout=30)
    assert child.returncode == 130
    assert error.strip().splitlines()[-1].startswith("error: interrupted")
    assert half.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["half.safetensors"]


MEASURE = """
import re, sys
import sdxl.commands.convert as convert
def peak():  # ru_maxrss would start at what the parent had
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
imported = peak()
assert convert.main(sys.argv[1:]) == 0
print(peak() - imported)
"""


def test_memory_grows_by_less_than_the_largest_tensor_and_200_mb(tmp_path: Path) -> None:
    """The memory of an import of torch (0.2 or 0.5 GB by its build) is not counted. The whole file would take more."""
    shape = (25_000, 1000)
    pieces = lambda: (torch.full((1000, 1000), 0.5, dtype=torch.float16) for _ in range(25))  # noqa: E731
    tensors = {f"x{number}": Written("F16", shape, pieces) for number in range(4)}
    write_tensors(tmp_path / "in.safetensors", tensors, {})
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "in.safetensors"), str(tmp_path / "out.safetensors")]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert (tmp_path / "out.safetensors").stat().st_size > 400e6
    assert int(output.splitlines()[-1]) < 25_000 * 1000 * 4 + 200e6


def test_examples(tmp_path: Path) -> None:
    tensor: Tensor = torch.arange(6.0).reshape(2, 3)
    save_file({"x": tensor}, tmp_path / "tiny.safetensors")
    found = doctest.testmod(convert_module, extraglobs={"folder": tmp_path})
    assert found.attempted and not found.failed


def test_the_facts_as_json(half: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.safetensors"
    assert run(half, out, "--dtype", "fp32", "--json") == 0
    facts = {"output": str(out), "bytes": out.stat().st_size, "dtype": "fp32", "projections": "conv"}
    assert json.loads(capsys.readouterr().out) == facts
