"""Recordings on disk: whatever a file holds by now is read back exactly, or refused as damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sige
from sige.errors import DamagedError, RecordingError
from sige.recordings import FolderShelf, Patch
from sige.recordings.recording import ComponentRecording

CPU = torch.device("cpu")


def part() -> ComponentRecording:
    rows = torch.arange(12.0).reshape(1, 4, 3)
    stats = {"down": torch.ones(1, 1, 2, dtype=torch.float64)}
    return ComponentRecording({"down": rows}, stats, torch.zeros(1, 4, 2, 2, device="meta"), torch.ones(1, 4, 2, 2))


@pytest.fixture(params=["exact", "8 bit"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> FolderShelf:
    """A recording with an edit put in, in files."""
    shelf = FolderShelf(tmp_path, CPU)
    store = sige.Store(None, request.param, shelf)
    store.put("unet", 0, part())
    region = sige.Region.from_mask(np.eye(16, dtype=bool))
    store.patch({("unet", 0): Patch.of(part(), region, "unet")})
    return shelf


def test_what_was_written_is_read(shelf: FolderShelf) -> None:
    again = FolderShelf(shelf.folder, CPU, shelf.manifest)
    torch.testing.assert_close(again.read("unet-0").rows["down"].rows(), part().rows["down"], atol=0.05, rtol=0)


Change = Callable[[dict[str, Any], dict[str, Any]], object]  # of the tensors' descriptions, and of the facts
CHANGES: dict[str, Change] = {
    "a code that does not exist": lambda tensors, facts: facts.update(code="4 bit"),
    "no code": lambda tensors, facts: facts.pop("code"),
    "a dtype that is a module": lambda tensors, facts: facts["rows"].update(down="nn"),
    "a dtype of whole numbers": lambda tensors, facts: facts["rows"].update(down="int32"),
    "a dtype that does not exist": lambda tensors, facts: facts.update(dtype="float7"),
    "rows that do not exist": lambda tensors, facts: facts["rows"].update(up="float32"),
    "rows that are a list": lambda tensors, facts: facts.update(rows=[1]),
    "an input that is a word": lambda tensors, facts: facts.update(input="large"),
    "an input of many digits": lambda tensors, facts: facts.update(input=[10**30, 1, 1, 1]),
    "an input of three sizes": lambda tensors, facts: facts.update(input=[1, 2, 3]),
    "rows of another shape": lambda tensors, facts: tensors["rows/down"].update(shape=[12]),
    "sums of another shape": lambda tensors, facts: tensors["stats/down"].update(shape=[2]),
    "an output of another shape": lambda tensors, facts: tensors["output"].update(shape=[16]),
}


def change_file(path: Path, change: Change) -> None:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    tensors = json.loads(data[8 : 8 + length])
    facts = json.loads(tensors["__metadata__"]["facts"])
    change(tensors, facts)
    tensors["__metadata__"]["facts"] = json.dumps(facts)
    text = json.dumps(tensors).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_recording_that_says_something_else_is_damaged(shelf: FolderShelf, change: Change) -> None:
    change_file(shelf.folder / shelf.manifest["recordings"]["unet-0"], change)
    with pytest.raises(DamagedError, match=r"unet-0-.*: holds no recording that can be read"):
        shelf.read("unet-0")


EDITS: dict[str, Change] = {
    "positions that do not exist": lambda tensors, facts: facts["unet-0"].update(index=[9]),
    "rows of another layer": lambda tensors, facts: facts["unet-0"].update(rows={"up": "float32"}),
    "an index of another shape": lambda tensors, facts: tensors["unet-0/index/4"].update(shape=[1, 2]),
    "no facts": lambda tensors, facts: facts.update({"unet-0": None}),
}


@pytest.mark.parametrize("change", EDITS.values(), ids=EDITS)
def test_an_edit_that_says_something_else_is_damaged(shelf: FolderShelf, change: Change) -> None:
    change_file(shelf.folder / shelf.manifest["edits"][0], change)
    with pytest.raises(DamagedError, match=r"edit-.*: holds no recording that can be read"):
        shelf.read("unet-0")


def test_an_index_beyond_the_rows_is_not_written_to_memory(shelf: FolderShelf) -> None:
    path = shelf.folder / shelf.manifest["edits"][0]
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[:8], "little")
    first, last = json.loads(data[8 : 8 + length])["unet-0/index/4"]["data_offsets"]
    data[8 + length + first : 8 + length + last] = b"\xff\xff\xff\x7f" * ((last - first) // 4)
    path.write_bytes(bytes(data))
    with pytest.raises(DamagedError, match="positions beyond 4"):
        shelf.read("unet-0")


@pytest.mark.parametrize("content", [b"", b"junk", (20_000_000).to_bytes(8, "little") + b"{" + bytes(99)])
def test_a_file_that_is_none_is_damaged(shelf: FolderShelf, content: bytes) -> None:
    (shelf.folder / shelf.manifest["recordings"]["unet-0"]).write_bytes(content)
    with pytest.raises(DamagedError):
        shelf.read("unet-0")


@pytest.mark.parametrize(
    "manifest",
    [
        {"recordings": {"unet-0": "../secret.safetensors"}},
        {"recordings": {"unet-0": "/etc/x.safetensors"}},
        {"recordings": {"unet": "a.safetensors"}},
        {"recordings": {"unet-x": "a.safetensors"}},
        {"edits": ["../a.safetensors"]},
    ],
)
def test_a_list_that_leaves_the_folder_is_damaged(tmp_path: Path, manifest: dict[str, Any]) -> None:
    with pytest.raises(DamagedError, match="the list of its recordings names"):
        FolderShelf(tmp_path, CPU, manifest)


def test_damaged_is_a_kind_of_recording_error() -> None:
    assert issubclass(DamagedError, RecordingError)
