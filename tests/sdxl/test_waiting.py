"""Threads of a command that wait for each other sleep soon, unless the user has said how to wait."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sdxl.commands.waiting import wait_shortly

ROOT = Path(__file__).resolve().parent.parent.parent
SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
OURS = "from sdxl.commands.waiting import wait_shortly; wait_shortly(); import torch"
COMMANDS = ("sdxl.commands.main", "sdxl.commands.train", "sdxl.demo", "sdxl.serve.main", "sdxl.batch.main")
needs_libgomp = pytest.mark.skipif(sys.platform != "linux", reason="torch has libgomp on Linux alone")


def libgomp_says(program: str, **environment: str) -> str:
    """What torch's libgomp prints of its settings when it is loaded."""
    clean = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    environment = {**clean, "OMP_DISPLAY_ENV": "verbose", **environment}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stderr


@needs_libgomp
def test_libgomp_reads_the_setting() -> None:
    assert "GOMP_SPINCOUNT = '30000'" in libgomp_says(OURS)
    assert "GOMP_SPINCOUNT = '30000'" not in libgomp_says("import torch")


@needs_libgomp
def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "GOMP_SPINCOUNT = '77'" in libgomp_says(OURS, GOMP_SPINCOUNT="77")
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert not wait_shortly()
    assert "GOMP_SPINCOUNT" not in os.environ


def test_after_torch_it_is_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    assert not wait_shortly()
    assert "GOMP_SPINCOUNT" not in os.environ


@pytest.mark.parametrize("module", COMMANDS)
def test_modules_of_commands_import_no_torch(module: str) -> None:
    """So the setting comes first."""
    libgomp_says(f"import sys, {module}; assert 'torch' not in sys.modules")
