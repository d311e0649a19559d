"""The formats of files: each function changes a valid file so that readers get beyond the first check."""

from __future__ import annotations

import json
from io import BytesIO

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.fuzz.mutate import Rng, mutate_bytes, mutate_chunks, mutate_json, mutate_lines, mutate_value

__all__ = [
    "header",
    "json_file",
    "json_lines",
    "losses",
    "picture",
    "session",
    "settings",
    "state",
    "yaml_file",
]


def header(data: bytes, rng: Rng) -> bytes:
    """A safetensors file whose header is changed as JSON, with the right length."""
    if rng.random() < 0.3:
        return mutate_bytes(data[:4096], rng)
    length = int.from_bytes(data[:8], "little")
    text = mutate_json(json.loads(data[8 : 8 + length]), rng)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def settings(data: bytes, rng: Rng) -> bytes:
    """A picture whose settings are changed as JSON."""
    with Image.open(BytesIO(data)) as image:
        image.load()
        content = json.loads(image.info["sige"])
    info, out = PngInfo(), BytesIO()
    info.add_text("sige", mutate_json(content, rng).decode("utf-8", "replace"), zip=rng.random() < 0.3)
    image.save(out, format="PNG", pnginfo=info)
    return mutate_chunks(out.getvalue(), rng) if rng.random() < 0.2 else out.getvalue()


def picture(data: bytes, rng: Rng) -> bytes:
    return mutate_chunks(data, rng) if data.startswith(b"\x89PNG") and rng.random() < 0.7 else mutate_bytes(data, rng)


def json_lines(data: bytes, rng: Rng) -> bytes:
    """Lines of JSON, one of them changed, or the bytes of all."""
    if rng.random() < 0.3:
        return mutate_bytes(data, rng)
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    return b"\n".join([*lines[:at], mutate_json(json.loads(lines[at]), rng), *lines[at + 1 :]])


def yaml_file(data: bytes, rng: Rng) -> bytes:
    return mutate_lines(data.decode(), rng)


def json_file(data: bytes, rng: Rng) -> bytes:
    return mutate_json(json.loads(data), rng)


def session(data: bytes, rng: Rng) -> bytes:
    """The file of a session: its index, a picture, or tensors."""
    if data.startswith(b"{"):
        return json_file(data, rng)
    return picture(data, rng) if data.startswith(b"\x89PNG") else _facts(data, rng)


def _facts(data: bytes, rng: Rng) -> bytes:
    """A safetensors file of a recording, of which the header, the facts in it, or the values are changed."""
    length = int.from_bytes(data[:8], "little")
    content = json.loads(data[8 : 8 + length])
    if "__metadata__" not in content or rng.random() < 0.5:
        return header(data, rng) if rng.random() < 0.7 else data[: 8 + length] + mutate_bytes(data[8 + length :], rng)
    facts = mutate_json(json.loads(content["__metadata__"]["facts"]), rng).decode("utf-8", "replace")
    text = json.dumps(content | {"__metadata__": {"facts": facts}}).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def state(data: bytes, rng: Rng) -> bytes:
    """A state with changed values, written as torch does; or changed bytes."""
    if rng.random() < 0.3:
        return mutate_bytes(data, rng)
    out = BytesIO()
    torch.save(mutate_value(torch.load(BytesIO(data), weights_only=True), rng), out)
    return out.getvalue()


def losses(data: bytes, rng: Rng) -> bytes:
    return mutate_lines("step,loss,rate\n0,0.5,0.001\n1,0.4,0.001\n2,0.3,0.001", rng)
