"""`sige-serve`: what it refuses, and how it ends."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys

import httpx
import pytest

pytest.importorskip("fastapi", reason="needs the serve packages: pip install 'sige[serve]'")
from sdxl.serve.main import main  # noqa: E402


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--host", "0.0.0.0"], "other machines could edit here: add --api-key KEY"),
        (["--host", "0.0.0.0", "--api-key", "short"], "expected at least 8 signs"),
        (["--port", "70000"], "--port: got 70000"),
        (["--workers", "0"], "--workers: got 0, expected at least 1"),
        (["--most-sessions", "0"], "--most-sessions: got 0"),
        (["--replicas", "2"], "--replicas: got 2, expected at least 1, and --ray"),
        (["--budget", "much"], "much"),
    ],
)
def test_what_is_refused_costs_one_line(words: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "tiny", "--port", "0", *words]) == 2
    said = capsys.readouterr().err
    assert why in said and len(said.strip().splitlines()) == 1


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["--model", "tiny", "--port", str(taken.getsockname()[1])]) == 2
    assert "cannot listen there" in capsys.readouterr().err


def test_ctrl_c_ends_the_server_with_one_word() -> None:
    command = [sys.executable, "-m", "sdxl.serve", "--model", "tiny", "--port", "0", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None and server.stderr is not None
        address = next(found[1] for line in server.stdout if (found := re.search(r"ready at (\S+)", line)))
        assert httpx.get(f"{address}/healthz").status_code == 200
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 130
        assert server.stderr.read().strip().splitlines()[-1] == "stopped"
