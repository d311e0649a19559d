"""Small checkpoints of every kind, and no network."""

from __future__ import annotations

import functools
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from torch import Tensor

from sdxl.checkpoint.load import Parts
from sdxl.checkpoint.tiny import make_tiny, write_tiny

Change = Callable[[dict[str, Tensor]], None]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("a checkpoint is never fetched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The small checkpoints, one file per kind in one folder. Tests must not change them."""
    return write_tiny(tmp_path_factory.mktemp("pretrained"))


@pytest.fixture(scope="session")
def original() -> Callable[[str], Parts]:
    """The parts that were written into the small checkpoint of a kind."""
    return functools.cache(make_tiny)


@pytest.fixture
def changed(tiny: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    """A changed copy of a small checkpoint, with its tokenizers beside it."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    def make(kind: str, change: Change, **metadata: str) -> Path:
        tensors = load_file(tiny[kind])
        with safe_open(tiny[kind], "pt") as file:
            facts = file.metadata() | metadata
        change(tensors)
        for name in ("tokenizer", "tokenizer_2"):
            (tmp_path / name).symlink_to(tiny[kind].parent / name)
        save_file(tensors, tmp_path / "changed.safetensors", facts)
        return tmp_path / "changed.safetensors"

    return make
