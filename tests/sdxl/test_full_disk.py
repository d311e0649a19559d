"""A full disk is one line, from whichever library the error comes, and leaves nothing half written."""

from __future__ import annotations

import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sdxl.checkpoint.load import load
from sdxl.checkpoint.tiny import tiny_weights
from sdxl.commands.export import main as export
from sdxl.training.ema import Average
from sdxl.training.loop import _Log
from sdxl.training.results import _save_words
from sdxl.training.state import save_state
from sige.errors import OutputError
from sige.files import atomic_write, named_if_full

SMALL = 20_000  # bytes that a file may have


@contextmanager
def full_disk(most: int = SMALL) -> Iterator[None]:
    """Inside, no file of this process grows beyond `most` bytes: writing fails as on a full disk (EFBIG)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_export_to_a_folder_is_one_line_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with full_disk():
        assert export([str(tiny_weights("sd15")), str(tmp_path / "model")]) == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path / 'model'}: not written, the disk is full; free some space, or take another folder\n"
    )
    assert names_in(tmp_path) == []


def test_export_to_a_file_is_one_line_and_keeps_the_old_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "model.safetensors"
    out.write_bytes(b"old")
    with full_disk():
        assert export([str(tiny_weights("sd15")), str(out), "--force"]) == 2
    assert "the disk is full" in capsys.readouterr().err
    assert (out.read_bytes(), names_in(tmp_path)) == (b"old", ["model.safetensors"])


def test_the_state_of_a_training(tmp_path: Path) -> None:
    path, module = tmp_path / "state.pt", nn.Linear(100, 100)
    optimizer = torch.optim.AdamW(module.parameters())
    save_state(path, 1, module, optimizer, Average(module, 0.9), {})
    before = path.read_bytes()
    with full_disk(), pytest.raises(OutputError, match=r"state\.pt: not written, the disk is full"):
        save_state(path, 2, module, optimizer, Average(module, 0.9), {})
    assert (path.read_bytes(), names_in(tmp_path)) == (before, ["state.pt"])


def test_the_losses_of_a_training(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    log = _Log(tmp_path / "loss.csv", 0)
    with full_disk(40), pytest.raises(OutputError, match=r"loss\.csv: not written, the disk is full"):
        for step in range(10):
            log.add(step, 0.5, 1e-3)
    del log  # an open file would complain now
    assert not recwarn.list


def test_tensors_and_words(tmp_path: Path) -> None:
    with full_disk(), pytest.raises(OutputError, match="the disk is full"):
        with atomic_write(tmp_path / "x.safetensors") as temporary:
            save_file({"x": torch.zeros(10_000)}, temporary)
    assert names_in(tmp_path) == []
    parts = load(tiny_weights("sd15"), progress=False)
    with full_disk(100), pytest.raises(OutputError, match="tokenizer: not written, the disk is full"):
        _save_words(parts, tmp_path)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_errors_that_a_full_disk_leads_to(error: Exception) -> None:
    with pytest.raises(OutputError, match="^a.bin: not written"), named_if_full("a.bin"):
        try:
            raise error
        except Exception as cause:
            raise RuntimeError("unexpected pos 64 vs 0") from cause


@pytest.mark.parametrize("error", [OSError(errno.EIO, "disk on fire"), ValueError("os error 2"), KeyboardInterrupt()])
def test_other_errors_pass(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, named_if_full("a.bin"):
        raise error
    assert caught.value is error
