"""Emphasis: the weights that brackets give to parts of a prompt. Importable without torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from sdxl.errors import InputError

__all__ = ["HEAVIEST", "Piece", "parse_emphasis", "plain_text"]

STEP = 1.1  # what a pair of brackets without a number multiplies or divides by
HEAVIEST = 10.0  # brackets in brackets included
MOST_CHARACTERS = 10_000
_TOKENS = re.compile(r"\\[\\()\[\]]|[()\[\]]|[^\\()\[\]]+|\\")
_WEIGHT = re.compile(r":\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*$")
_CLOSED_BY = {")": "(", "]": "["}


class Piece(NamedTuple):
    """A part of a prompt, and how much it counts."""

    text: str
    weight: float = 1.0


@dataclass
class _Part:
    """A part that is being read; a bracket that is still open is a part of its own."""

    text: str
    weight: float = 1.0


def parse_emphasis(prompt: str, field: str = "prompt") -> list[Piece]:
    """The pieces of a prompt. `(a)` weighs 1.1, `[a]` 1/1.1, `(a:1.3)` 1.3; brackets in brackets multiply.

    A backslash makes a bracket text, as in `\\(`. A bracket without a partner is text, too.

    >>> parse_emphasis("a (red:1.3) ball")
    [Piece(text='a ', weight=1.0), Piece(text='red', weight=1.3), Piece(text=' ball', weight=1.0)]
    """
    if len(prompt) > MOST_CHARACTERS:
        raise InputError(f"{field}: got {len(prompt):,} characters, expected at most {MOST_CHARACTERS:,}", field)
    parts: list[_Part] = []
    opened: list[int] = []  # where the brackets that are still open stand
    for token in _TOKENS.findall(prompt):
        if token in ("(", "["):
            opened.append(len(parts))
            parts.append(_Part(token))
        elif opened and _CLOSED_BY.get(token) == parts[opened[-1]].text:
            _close(parts, opened.pop(), field)
        else:
            parts.append(_Part(token[1:] if len(token) == 2 and token[0] == "\\" else token))
    return _joined(parts, field)


def plain_text(pieces: list[Piece]) -> str | None:
    """The text of pieces that all weigh 1; None where one weighs more or less."""
    return "".join(piece.text for piece in pieces) if all(piece.weight == 1 for piece in pieces) else None


def _close(parts: list[_Part], opened: int, field: str) -> None:
    """Weighs what stands behind the open bracket, and takes the bracket out."""
    inside = parts[opened + 1 :]
    factor = 1 / STEP if parts[opened].text == "[" else _given(inside, field)
    for part in inside:
        part.weight *= factor
    parts[opened:] = inside


def _given(inside: list[_Part], field: str) -> float:
    """The number behind the last colon, which is taken out of the text; without one, 1.1."""
    match = _WEIGHT.search(inside[-1].text) if inside else None
    if match is None:
        return STEP
    _check(weight := float(match[1]), field)
    inside[-1].text = inside[-1].text[: match.start()]
    return weight


def _check(weight: float, field: str) -> None:
    if not 0 <= weight <= HEAVIEST:
        raise InputError(
            f"{field}: got the weight {weight:g}, expected a number from 0 to {HEAVIEST:g}: what a picture does not "
            "show belongs into the negative prompt",
            field,
        )


def _joined(parts: list[_Part], field: str) -> list[Piece]:
    """The parts as pieces; neighbours of one weight are one piece."""
    pieces: list[Piece] = []
    for part in parts:
        _check(part.weight, field)
        weight = round(part.weight, 6)
        if pieces and pieces[-1].weight == weight:
            pieces[-1] = Piece(pieces[-1].text + part.text, weight)
        elif part.text:
            pieces.append(Piece(part.text, weight))
    return pieces
