"""Mutators: a valid input and a source of random numbers go in, a damaged or hostile input comes out."""

from __future__ import annotations

import json
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

__all__ = [
    "NASTY_WORDS",
    "mutate_bytes",
    "mutate_chunks",
    "mutate_json",
    "mutate_lines",
    "mutate_value",
    "mutate_words",
]

Rng = random.Random
DEEP, DIGITS = "@deep@", "@digits@"  # stand for what json.dumps cannot write
NASTY_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 7, 2**31, -(2**31), 2**53, 2**63, 2**64, 10**400, 1e308, -1e308, 0.5, float("nan"),
    float("inf"), "", " ", "a", "\0", "\x1b[2J\x1b]0;x\x07", "\u202e", "\ud800", "\udcff", "../../x", "/", ".",
    "a" * 3000, "é" * 300, [], {}, [[]], [0], ["a"], {"a": 1}, [1] * 300, list(range(70)), DEEP, DIGITS, "exact",
    "fp32", "F64", "U8",
)  # fmt: skip
NASTY_WORDS = (
    "", " ", "-", "--", "0", "-1", "1", "2", "9" * 400, "9" * 5000, "1e999", "nan", "inf", "-inf", "0x10", "1_000", "٣",
    "²", "True", "none", ".", "..", "../x", "/", "/dev/null", "/nonexistent/x.png", "a" * 300, "a" * 5000, "\udcff",
    "x\udc80.png", "\x1b[2J", "\u202eabc", "a\nb", "a b", "picture.png", "mask.npy", "mask.png", "edited.png",
    "small.safetensors", "new.png", "session", "512x1024", "0,1,2", ",", "0,2,5", "cuda:1", "cuda:" + "9" * 50, "a=b",
    "=", "[[[[", "{a: b}", "${a}", "*a", "configs", "plan.yaml", "pictures", "new.safetensors", "folder", "made.png",
    "empty.png", "big.png", "pipe.png", "99999",
)  # fmt: skip
NASTY_LINES = (
    "*a", "&a [1, *a]", "!!python/object/apply:os.system [x]", "${a}", "${oc.env:HOME}", "${model}", "${${a}}",
    "${a}${b}", "[" * 200, "{" * 50, "[1, 2", "'", '"\\ud800"', '"\\x1b[2J"', "~", ".nan", ".inf", "-.inf", "1e999",
    "9" * 400, "9" * 5000, "2001-01-01", "? [a]", "<<: *x", "|", ">-", "- a", "0x1F", "0o17", "1_000", "true", "no",
    "???", "\t", "%YAML 9.9", "---", "-1", "0", "1000000", "10000000000", "[1, 2, 3]", "{a: 1}", "a" * 3000, "\x00",
    "!!binary abc", "!!set {a}", "sd15", "vae",
)  # fmt: skip
TOKENS = (
    b"\0", b"\xff", b"{", b"}", b"[", b"]", b'"', b":", b",", b"\\", b"\\ud800", b"\x1b[2J", b"-1", b"9" * 400, b"../",
    b"\xef\xbb\xbf", b"\r\n", b"\n", b"null", b"NaN", b"1e999", b"__metadata__", b"%s", b"${a}", b"*a", b"PK\x03\x04",
)  # fmt: skip


def mutate_bytes(data: bytes, rng: Rng) -> bytes:
    """One to four changes anywhere in the data."""
    for _ in range(rng.randint(1, 4)):
        data = rng.choice(_BYTES)(data, rng)
    return data


def _flip(data: bytes, rng: Rng) -> bytes:
    if not data:
        return b"\0"
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def _set(data: bytes, rng: Rng) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + bytes([rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))]) + data[at + 1 :]


def _cut(data: bytes, rng: Rng) -> bytes:
    first, last = sorted(rng.randrange(len(data) + 1) for _ in "ab")
    return data[:first] + data[last:]


def _truncate(data: bytes, rng: Rng) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _repeat(data: bytes, rng: Rng) -> bytes:
    first = rng.randrange(len(data) + 1)
    piece = data[first : first + rng.randint(1, 64)]
    return data[:first] + piece * rng.choice((2, 3, 50)) + data[first:]


def _insert(data: bytes, rng: Rng) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice((rng.choice(TOKENS), rng.randbytes(rng.randint(1, 8)))) + data[at:]


def _number(data: bytes, rng: Rng) -> bytes:
    """Eight bytes as a length that is wrong."""
    at = rng.choice((0, rng.randrange(len(data) + 1)))
    value = rng.choice((0, 1, len(data), 2**31, 2**32, 2**63, 2**64 - 1, rng.randrange(2**20)))
    return data[:at] + value.to_bytes(8, rng.choice(("little", "big"))) + data[at + 8 :]


_BYTES: tuple[Callable[[bytes, Rng], bytes], ...] = (_flip, _flip, _set, _cut, _truncate, _repeat, _insert, _number)


# ---- JSON ------------------------------------------------------------------------------------------------------------


def mutate_json(content: Any, rng: Rng) -> bytes:
    """The content with a few of its values replaced, removed, renamed or repeated, as JSON; now and then broken."""
    text = json.dumps(mutate_value(content, rng))
    text = text.replace(f'"{DEEP}"', "[" * (deep := rng.choice((20, 300, 990, 5000))) + "]" * deep)
    text = text.replace(f'"{DIGITS}"', "9" * 5000)
    data = text.encode("utf-8", "surrogatepass")
    return mutate_bytes(data, rng) if rng.random() < 0.1 else data


def mutate_value(content: Any, rng: Rng) -> Any:
    """A copy of nested dictionaries and lists with one to three changes."""
    for _ in range(rng.randint(1, 3)):
        content = _changed(content, rng)
    return content


def _changed(content: Any, rng: Rng) -> Any:
    """The content with one change at a random depth."""
    if isinstance(content, dict) and content and rng.random() < 0.9:
        key = rng.choice(list(content))
        kind = rng.random()
        if kind < 0.1:
            return {name: value for name, value in content.items() if name != key}
        if kind < 0.2:
            return content | {_key(rng): content[key]}
        if kind < 0.25:
            return {(_key(rng) if name == key else name): value for name, value in content.items()}
        return content | {key: _changed(content[key], rng)}
    if isinstance(content, list) and content and rng.random() < 0.7:
        at = rng.randrange(len(content))
        kind = rng.random()
        if kind < 0.2:
            return content[:at] + content[at + 1 :]
        if kind < 0.4:
            return content + content[at : at + 1] * rng.choice((1, 2, 100))
        return [*content[:at], _changed(content[at], rng), *content[at + 1 :]]
    if isinstance(content, str) and rng.random() < 0.3:
        return mutate_bytes(content.encode("utf-8", "surrogatepass"), rng).decode("utf-8", "surrogateescape")
    if isinstance(content, int) and not isinstance(content, bool) and rng.random() < 0.5:
        return content + rng.choice((-1, 1, 8, -content * 2, content))
    return rng.choice(NASTY_VALUES)


def _key(rng: Rng) -> str:
    return rng.choice(
        ("", "a", "output_path", "mode", "json", "__metadata__", "\ud800", "\x1b[2J", "a" * 300, "version")
    )


# ---- lines, words, chunks --------------------------------------------------------------------------------------------


def mutate_lines(text: str, rng: Rng) -> bytes:
    """YAML or a table, with some of its lines changed, removed, repeated or swapped."""
    lines = text.split("\n")
    for _ in range(rng.randint(1, 4)):
        at, kind = rng.randrange(len(lines)), rng.random()
        if kind < 0.15:
            lines = lines[:at] + lines[at + 1 :] or [""]
        elif kind < 0.3:
            lines.insert(at, rng.choice(lines))
        elif kind < 0.35:
            rng.shuffle(lines)
        elif kind < 0.8 and ":" in lines[at]:
            key, _, _ = lines[at].partition(":")
            lines[at] = f"{key}: {rng.choice(NASTY_LINES)}"
        else:
            lines[at] = lines[at][: rng.randrange(len(lines[at]) + 1)] + rng.choice(NASTY_LINES)
    data = "\n".join(lines).encode("utf-8", "surrogateescape")
    return mutate_bytes(data, rng) if rng.random() < 0.2 else data


def mutate_words(words: Sequence[str], flags: Sequence[str], rng: Rng) -> list[str]:
    """A command line with some of its words changed, removed, added or swapped."""
    changed = list(words)
    for _ in range(rng.randint(1, 4)):
        at, kind = rng.randrange(len(changed) + 1), rng.random()
        if kind < 0.3:
            changed[at:at] = [rng.choice(flags), rng.choice(NASTY_WORDS)]
        elif kind < 0.6 and at < len(changed):
            changed[at] = rng.choice(NASTY_WORDS)
        elif kind < 0.7:
            del changed[at : at + rng.randint(1, 2)]
        elif kind < 0.8:
            changed[at:at] = rng.choices([*flags, *NASTY_WORDS], k=rng.randint(1, 3))
        elif kind < 0.9 and at < len(changed):
            data = changed[at].encode("utf-8", "surrogateescape")
            changed[at] = mutate_bytes(data, rng).decode("utf-8", "surrogateescape").replace("\0", "")
        else:
            rng.shuffle(changed)
    return changed


def mutate_chunks(png: bytes, rng: Rng) -> bytes:
    """A PNG with one of its chunks changed, removed, repeated or moved; checksums are right, so it is read on."""
    chunks, at = [], 8
    while at + 8 <= len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        chunks.append((png[at + 4 : at + 8], png[at + 8 : at + 8 + length]))
        at += 12 + length
    for _ in range(rng.randint(1, 3)):
        place, kind = rng.randrange(len(chunks)), rng.random()
        name, data = chunks[place]
        if kind < 0.6:
            chunks[place] = name, mutate_bytes(data, rng)
        elif kind < 0.7 and len(chunks) > 1:
            del chunks[place]
        elif kind < 0.8:
            chunks.insert(rng.randrange(len(chunks)), chunks[place])
        elif kind < 0.9:
            chunks[place] = rng.choice((b"tRNS", b"iCCP", b"eXIf", b"zTXt", b"iTXt", b"PLTE", b"acTL", b"gAMA")), data
        else:
            rng.shuffle(chunks)
    return png[:8] + b"".join(_chunk(name, data) for name, data in chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
