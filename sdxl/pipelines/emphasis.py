"""Emphasis: the weights that brackets give to parts of a prompt. Importable without torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from sdxl.errors import InputError

__all__ = ["HEAVIEST", "Piece", "parse_emphasis", "plain_text"]

STEP = 1.1  # what a pair of brackets without a number multiplies or divides by
HEAVIEST = 10.0
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
    opens: bool = False


def parse_emphasis(prompt: str, field: str = "prompt") -> list[Piece]:
    """The pieces of a prompt. `(a)` weighs 1.1, `[a]` 1/1.1, `(a:1.3)` 1.3; brackets in brackets multiply.

    A backslash makes a bracket text, as in `\\(`. A bracket without a partner is text, too.

    >>> parse_emphasis("a (red:1.3) ball")
    [Piece(text='a ', weight=1.0), Piece(text='red', weight=1.3), Piece(text=' ball', weight=1.0)]
    """
    parts: list[_Part] = []
    for token in _TOKENS.findall(prompt):
        if token in ("(", "["):
            parts.append(_Part(token, opens=True))
        elif token not in _CLOSED_BY or not _close(parts, token, field):
            parts.append(_Part(token[1:] if len(token) == 2 and token[0] == "\\" else token))
    return _joined(parts)


def plain_text(pieces: list[Piece]) -> str | None:
    """The text of pieces that all weigh 1; None where one weighs more or less."""
    return "".join(piece.text for piece in pieces) if all(piece.weight == 1 for piece in pieces) else None


def _close(parts: list[_Part], bracket: str, field: str) -> bool:
    """Weighs what stands behind the last open bracket; returns False where that is none, or one of the other kind."""
    opened = next((number for number in reversed(range(len(parts))) if parts[number].opens), None)
    if opened is None or parts[opened].text != _CLOSED_BY[bracket]:
        return False
    inside = parts[opened + 1 :]
    factor = 1 / STEP if bracket == "]" else _given(inside, field)
    for part in inside:
        part.weight *= factor
    parts[opened:] = inside
    return True


def _given(inside: list[_Part], field: str) -> float:
    """The number behind the last colon, which is taken out of the text; without one, 1.1."""
    match = _WEIGHT.search(inside[-1].text) if inside else None
    if match is None:
        return STEP
    weight = float(match[1])
    if not 0 <= weight <= HEAVIEST:
        raise InputError(
            f"{field}: got the weight {match[1]}, expected a number from 0 to {HEAVIEST:g}: what a picture does not "
            "show belongs into the negative prompt",
            field,
        )
    inside[-1].text = inside[-1].text[: match.start()]
    return weight


def _joined(parts: list[_Part]) -> list[Piece]:
    """The parts as pieces; neighbours of one weight are one piece."""
    pieces: list[Piece] = []
    for part in parts:
        weight = round(part.weight, 6)
        if pieces and pieces[-1].weight == weight:
            pieces[-1] = Piece(pieces[-1].text + part.text, weight)
        elif part.text:
            pieces.append(Piece(part.text, weight))
    return pieces
