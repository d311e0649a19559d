"""Text for a terminal: what a file holds reaches it escaped, and an error in one line of bounded length."""

from __future__ import annotations

import logging
import re
import sys

__all__ = ["MISTAKE", "as_line", "escape_logs", "escaped", "fail", "say"]

MISTAKE = 2  # the exit status for what the user can mend
MOST = 1000  # characters of a line
# Control characters but the line feed, those that turn the direction of text, and lone surrogates, which UTF-8 has not.
_UNFIT = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def escaped(text: str) -> str:
    r"""The text with a visible escape in the place of each character that would steer the terminal.

    >>> escaped("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return _UNFIT.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def as_line(message: object, most: int = MOST) -> str:
    """The message as one line of at most about `most` characters; what is too long loses its middle.

    >>> as_line("a file:\\n   is damaged")
    'a file: is damaged'
    >>> as_line("a" * 50 + "b" * 50, 20)
    'aaaaaaaaaaaaa … 80 characters … bbbbbbb'
    """
    line = escaped(" ".join(_cut(str(message), most).split()))
    return _cut(line, most + 40)  # an escape is longer than what it stands for


def _cut(text: str, most: int) -> str:
    """The end of an error says what to do, so the middle goes."""
    if len(text) <= most:
        return text
    tail = most // 3 + 1
    head = most - tail
    return f"{text[:head]} … {len(text) - most:,} characters … {text[-tail:]}"


def fail(message: object) -> int:
    """Prints the error as one line, and returns the exit status 2."""
    print("error:", as_line(message), file=sys.stderr)
    return MISTAKE


def say(text: str) -> None:
    """Prints the text, of one line or several, with escapes."""
    print(escaped(text), flush=True)


class _Record(logging.LogRecord):
    """A record whose message is escaped."""

    def getMessage(self) -> str:  # noqa: N802
        return escaped(super().getMessage())


def escape_logs() -> None:
    """From here on the messages of all loggers, those of libraries too, are escaped; for the command line."""
    logging.setLogRecordFactory(_Record)
