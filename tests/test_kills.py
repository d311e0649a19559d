"""A command that is killed loses no file, and the next start leaves nothing behind: a few kills of tests/kills.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_a_few_kills() -> None:
    command = [sys.executable, "-m", "tests.kills", "--kills", "4", "--seed", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kills: 4, 0 failures" in done.stdout
