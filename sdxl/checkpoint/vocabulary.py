"""A small vocabulary in CLIP's format: every byte, once inside a word and once at its end, and a few merges."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from sige.files import atomic_write

__all__ = ["write_tokenizer"]

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
MERGES = (
    "t h", "th e</w>", "i n", "in g</w>", "a n", "an d</w>", "o n</w>", "o f</w>",
    "h o", "r s", "ho rs", "hors e</w>", "g r", "p h", "o t", "ph ot",
)  # fmt: skip


def write_tokenizer(folder: Path, padding: str, merges: Sequence[str] = MERGES) -> None:
    """Writes `vocab.json`, `merges.txt` and `tokenizer_config.json`, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    words = {word: number for number, word in enumerate(_words(merges))}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": padding}
    settings |= {"bos_token": START, "eos_token": END, "unk_token": END}
    _write(folder / "tokenizer_config.json", json.dumps(settings, indent=2))
    _write(folder / "merges.txt", "\n".join(("#version: 0.2", *merges)))
    _write(folder / "vocab.json", json.dumps(words, ensure_ascii=False))


def _words(merges: Sequence[str] = MERGES) -> list[str]:
    """The words in CLIP's order: "!" is number 0, the second tokenizer's padding; the end of the text is the last."""
    letters = _byte_letters()
    merged = [merge.replace(" ", "") for merge in merges]
    return [*letters, *(letter + WORD_END for letter in letters), *merged, START, END]


def _byte_letters() -> list[str]:
    """A visible character for each byte: the byte's own, or one beyond Latin-1 for control characters and spaces."""
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return [chr(byte) for byte in visible] + [chr(256 + number) for number in range(len(hidden))]


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
