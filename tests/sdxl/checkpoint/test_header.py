"""The strict reader: it refuses every file that is not a whole safetensors file, and names it."""

from __future__ import annotations

import doctest
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from sdxl.checkpoint import header, tensors
from sdxl.checkpoint.header import MAX_HEADER_BYTES, read_header
from sdxl.checkpoint.tensors import DTYPES, TensorReader
from sdxl.errors import CheckpointError, InputError, SdxlError

Content = dict[str, Any]


def valid() -> Content:
    """Two tensors, [2, 3] fp32 and [4] fp16, and metadata."""
    return {
        "__metadata__": {"made by": "us"},
        "x": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "y": {"dtype": "F16", "shape": [4], "data_offsets": [24, 32]},
    }


def as_file(content: Content | str, data: int = 32) -> bytes:
    text = (content if isinstance(content, str) else json.dumps(content)).encode()
    return len(text).to_bytes(8, "little") + text + bytes(data)


def read(path: Path, content: bytes) -> header.Header:
    path.write_bytes(content)
    return read_header(path)


def test_a_valid_file_is_read_as_safetensors_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "valid.safetensors"
    before = {name: torch.arange(6).reshape(2, 3).to(dtype) for name, dtype in DTYPES.items()}
    before |= {"scalar": torch.tensor(3.0), "empty": torch.zeros(0, 7)}
    save_file(before, path, {"made by": "them"})
    found = read_header(path)
    assert found.metadata == {"made by": "them"}
    assert found.bytes == path.stat().st_size
    with TensorReader(found) as reader:
        after = {name: reader.read(name) for name in found.tensors}
    assert set(after) == set(before)
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype
        assert after[name].shape == tensor.shape
        assert after[name].reshape(-1).view(torch.uint8).equal(tensor.reshape(-1).view(torch.uint8)), name


def _set(name: str, **fields: Any) -> Callable[[Content], None]:
    return lambda content: content[name].update(fields)


FAULTS: dict[str, tuple[Callable[[Content], object], str]] = {
    "overlap": (_set("y", data_offsets=[20, 28]), "y: overlaps"),
    "hole": (_set("y", data_offsets=[25, 33]), "y: begins after unused bytes"),
    "out of range": (_set("y", shape=[40], data_offsets=[24, 104]), "is truncated"),
    "bytes left over": (_set("y", shape=[3], data_offsets=[24, 30]), "2 bytes after its last tensor"),
    "wrong size": (_set("x", shape=[2, 4]), "x: has 24 bytes, expected 32 for F32"),
    "unknown dtype": (_set("x", dtype="F31"), "x: has dtype 'F31'"),
    "dtype of another type": (_set("x", dtype=["F32"]), "x: has dtype"),
    "negative size": (_set("x", shape=[-2, -3]), "x: has shape [-2, -3]"),
    "a boolean size": (_set("x", shape=[True, 6]), "x: has shape"),
    "a fractional size": (_set("x", shape=[2.0, 3]), "x: has shape"),
    "a huge size": (_set("x", shape=[2**62] * 9), "x: has 24 bytes"),
    "many dimensions": (_set("x", shape=[1] * 17 + [6]), "x: has shape"),
    "offsets backwards": (_set("x", data_offsets=[24, 0]), "x: has data_offsets [24, 0]"),
    "one offset": (_set("x", data_offsets=[24]), "x: has data_offsets [24]"),
    "a field too many": (_set("x", extra=1), "describes 'x' without exactly"),
    "a field too few": (lambda content: content["x"].pop("dtype"), "describes 'x' without exactly"),
    "no fields": (lambda content: content.update(x=3), "describes 'x' without exactly"),
    "metadata of numbers": (_set("__metadata__", steps=3), "__metadata__ that is no mapping of text to text"),
    "metadata of another type": (lambda content: content.update(__metadata__=[]), "no mapping of text to text"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_promise_1_faults_of_the_header_are_named(name: str, tmp_path: Path) -> None:
    change, message = FAULTS[name]
    content = valid()
    change(content)
    with pytest.raises(CheckpointError) as raised:
        read(tmp_path / "bad.safetensors", as_file(content))
    assert message in str(raised.value)
    assert "bad.safetensors: " in str(raised.value)


BYTES = {
    "empty": (b"", "has 0 bytes"),
    "short": (b"\x01\x02", "has 2 bytes"),
    "zeros": (bytes(64), "is not a JSON object"),
    "truncated in the header": (as_file(valid())[:40], "is truncated inside its header"),
    "truncated in the data": (as_file(valid())[:-1], "is truncated"),
    "bytes behind": (as_file(valid()) + b"\0", "1 bytes after its last tensor"),
    "a duplicate key": (as_file('{"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]},"a":{}}'), "the key 'a' twice"),
    "a duplicate field": (as_file('{"a":{"dtype":"U8","dtype":"I8"}}'), "the key 'dtype' twice"),
    "a list": (as_file("[]"), "is not a JSON object"),
    "NaN": (as_file('{"a":NaN}'), "is not JSON"),
    "not UTF-8": (len(b'{"\xff":0}').to_bytes(8, "little") + b'{"\xff":0}', "is not JSON"),
    "deep": (as_file('{"a":' + "[" * 100_000), "is not JSON"),
    "a long number": (as_file('{"a":' + "9" * 5000 + "}"), "is not JSON"),
    "a huge length": ((MAX_HEADER_BYTES + 1).to_bytes(8, "little") + bytes(9), "is no safetensors file"),
    "a pickle": (b"\x80\x02}q\x00X" + bytes(99), "a pickle"),
    "a zip": (b"PK\x03\x04" + b"\x14" * 99, "PyTorch pickle"),
    "a web page": (b"<!DOCTYPE html><html>" + bytes(99), "a web page"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
}


@pytest.mark.parametrize("name", BYTES)
def test_promise_1_junk_is_named(name: str, tmp_path: Path) -> None:
    content, message = BYTES[name]
    with pytest.raises(CheckpointError, match="bad.safetensors: ") as raised:
        read(tmp_path / "bad.safetensors", content)
    assert message in str(raised.value)


@pytest.mark.parametrize("name", ["absent.safetensors", "."])
def test_what_is_no_file_is_an_input_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a .safetensors file"):
        read_header(tmp_path / name)


@given(st.data())
def test_promise_1_valid_then_mutated_is_read_right_or_refused(tmp_path_factory: Any, data: st.DataObject) -> None:
    """It raises no other exception, gives no range outside the file, and accepts no file that safetensors refuses."""
    content = bytearray(save({"x": torch.ones(2, 3), "y": torch.ones(4, dtype=torch.float16)}, {"made by": "them"}))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, max(len(content) - 1, 0)))
        length = data.draw(st.integers(0, 12))
        new = data.draw(
            st.sampled_from([b"", b"0", b"9", b"-", b"]", b'"x"', b"\xff", bytes(8), content[at : at + 30]])
        )
        content[at : at + length] = new
    path = tmp_path_factory.getbasetemp() / "mutated.safetensors"
    try:
        found = read(path, bytes(content))
    except CheckpointError as error:
        assert "mutated.safetensors: " in str(error)
        return
    ends = [stored.start + stored.bytes for stored in found.tensors.values()]
    assert max(ends, default=0) <= len(content)
    for stored in found.tensors.values():
        assert stored.bytes == math.prod(stored.shape) * header.ITEM_BYTES[stored.dtype]
    theirs = dict(safetensors.deserialize(bytes(content)))
    assert {name: tuple(fields["shape"]) for name, fields in theirs.items()} == {
        name: stored.shape for name, stored in found.tensors.items()
    }


@given(st.binary(max_size=400))
def test_promise_1_random_bytes_are_refused(tmp_path_factory: Any, content: bytes) -> None:
    with pytest.raises(SdxlError):
        read(tmp_path_factory.getbasetemp() / "random.safetensors", content)


def test_promise_1_a_file_truncated_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    """With a memory map the process would die."""
    path = tmp_path / "x.safetensors"
    save_file({"x": torch.ones(1000)}, path)
    with TensorReader(read_header(path)) as reader:
        with path.open("r+b") as file:
            file.truncate(2000)
        with pytest.raises(CheckpointError, match="ends inside 'x'"):
            reader.read("x")


@pytest.mark.parametrize("module", [header, tensors])
def test_examples(module: Any, tmp_path: Path) -> None:
    save_file({"x": torch.arange(6.0).reshape(2, 3)}, tmp_path / "tiny.safetensors")
    found = doctest.testmod(module, extraglobs={"folder": tmp_path, "read_header": read_header})
    assert found.attempted and not found.failed


def test_a_long_header_is_refused_before_it_is_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """87 MB of junk once took 100 seconds."""
    monkeypatch.setattr(json, "loads", lambda *_, **__: pytest.fail("it was parsed"))
    with pytest.raises(CheckpointError, match=r"has a header of 10,000,001 bytes, expected at most 10,000,000"):
        read(tmp_path / "long", (MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b"{" + bytes(MAX_HEADER_BYTES))


def test_the_largest_header_is_read_in_seconds(tmp_path: Path) -> None:
    """The worst that the limit lets through: millions of small lists."""
    junk = "[" + "[]," * ((MAX_HEADER_BYTES - 40) // 3) + "[]]"
    began = time.perf_counter()
    with pytest.raises(CheckpointError, match="describes 'x' without"):
        read(tmp_path / "junk", as_file(f'{{"x": {junk}}}', 0))
    assert time.perf_counter() - began < 5


def test_too_many_tensors_are_refused(tmp_path: Path) -> None:
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    content = {f"t{number}": empty for number in range(header.MAX_TENSORS)}
    assert len(read(tmp_path / "many", as_file(content, 0)).tensors) == header.MAX_TENSORS
    with pytest.raises(CheckpointError, match="has 20,001 tensors, expected at most 20,000"):
        read(tmp_path / "more", as_file(content | {"one more": empty}, 0))


@pytest.mark.parametrize(
    "content",
    [
        {"x\ud800": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}},
        {"__metadata__": {"made\udcff by": "us"}},
        {"__metadata__": {"made by": "\ud800"}},
    ],
)
def test_halves_of_characters_are_no_text(tmp_path: Path, content: Content) -> None:
    """JSON can spell them, and printing them was an error."""
    with pytest.raises(CheckpointError, match="not JSON"):
        read(tmp_path / "halves", as_file(content, 0))
