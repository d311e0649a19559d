"""What reaches a terminal: escaped, one line for an error, and never a line without end."""

from __future__ import annotations

import doctest
import io
import logging
from collections.abc import Iterator

import pytest

from sige import terminal
from sige.terminal import as_line, escape_logs, escaped, fail, say

CLEAR = "\x1b[2J\x1b]0;title\x07"


def test_control_characters_become_visible() -> None:
    assert escaped(f"a{CLEAR}\r\x7f\x9b") == "a\\x1b[2J\\x1b]0;title\\x07\\r\\x7f\\x9b"
    assert escaped("left \u202e right \ud800 \u2028") == "left \\u202e right \\ud800 \\u2028"
    assert escaped("ein Pferd 馬 🐎\nund\u00a0noch eins") == "ein Pferd 馬 🐎\nund\u00a0noch eins"


def test_an_error_is_one_short_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert fail(f"what:\n got {CLEAR}{'x' * 200_000}, expected less: take another file") == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and len(line) < 1200 and "\x1b" not in line
    assert line.startswith("error: what: got \\x1b[2J") and line.endswith("expected less: take another file\n")
    assert "characters …" in line


def test_a_line_of_escapes_is_not_longer(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(as_line("\ud800" * 100_000)) < 1200


def test_what_is_said_can_be_printed_by_a_strict_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="strict")
    monkeypatch.setattr("sys.stdout", stream)
    say("wrote \udcff.png\nin two lines")
    stream.flush()
    assert stream.buffer.getvalue() == b"wrote \\udcff.png\nin two lines\n"  # type: ignore[attr-defined]


@pytest.fixture
def own_records() -> Iterator[None]:
    before = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(before)


def test_logs_of_libraries_are_escaped(own_records: None, caplog: pytest.LogCaptureFixture) -> None:
    escape_logs()
    logging.getLogger("some.library").warning("file %s", CLEAR)
    assert caplog.messages == ["file \\x1b[2J\\x1b]0;title\\x07"]


def test_examples() -> None:
    found = doctest.testmod(terminal)
    assert found.attempted and not found.failed
