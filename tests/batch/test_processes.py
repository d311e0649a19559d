"""Processes: every way in which a row and its worker can end, in real processes with work of milliseconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from sdxl.batch.jobs import read_jobs
from sdxl.batch.ledger import Ledger, State
from sdxl.batch.main import run_batch
from sdxl.batch.perform import Make
from sdxl.batch.summary import Summary
from sdxl.edits.asked import Defaults
from sdxl.errors import SdxlError
from sige.errors import OutputError
from tests.batch import hooks, kills

ROOT = Path(__file__).resolve().parents[2]


def jobs(folder: Path, *prompts: str) -> Path:
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    lines = [f"r{number},a.png,{prompt}" for number, prompt in enumerate(prompts)]
    (folder / "jobs.csv").write_text("\n".join(["id,image,prompt", *lines]) + "\n")
    return folder / "jobs.csv"


def batch(folder: Path, *prompts: str, workers: int = 1, make: Make = hooks.make, retry: bool = False) -> Summary:
    rows = read_jobs(jobs(folder, *prompts))
    return run_batch(rows, folder / "out", make, Defaults(), workers=workers, retry=retry)


def noted(folder: Path, name: str) -> dict[str, object]:
    return json.loads((folder / "out" / name).read_text())  # type: ignore[no-any-return]


def test_rows_end_as_they_must(tmp_path: Path) -> None:
    summary = batch(tmp_path, "a horse", "fails", "kills", "stumbles", "memory", "a barn", "crashes", "lost", workers=2)
    out = tmp_path / "out"
    assert summary.counts == {State.DONE: 2, State.FAILED: 3, State.SET_ASIDE: 3, State.LEFT: 0}
    assert sorted(path.name for path in out.glob("*.png")) == ["r0.png", "r5.png"]
    assert noted(tmp_path, "failed/r1.json")["error"] == "image: is damaged"
    assert "ZeroDivisionError: a fault" in str(noted(tmp_path, "failed/r3.json")["traceback"])
    assert "not enough memory" in str(noted(tmp_path, "failed/r4.json")["error"])
    hows = {name: [end["how"] for end in noted(tmp_path, f"deaths/{name}.json")["ends"]] for name in ("r2", "r6", "r7")}
    assert hows == {"r2": ["SIGKILL"] * 3, "r6": ["SIGSEGV"] * 3, "r7": ["exit status 1"] * 3}
    assert not list(out.rglob("*.part"))

    again = batch(tmp_path, "a horse", "fails", "kills", "stumbles", "memory", "a barn", "crashes", "lost")
    assert again.counts == summary.counts and not again.made
    assert sorted(hooks.made(out)) == ["r0", "r5"]

    retried = batch(tmp_path, "a", "a", "a", "a", "a", "a", "a", "a", retry=True)
    assert retried.is_whole and len(retried.made) == 6
    assert not list((out / "failed").iterdir()) and not list((out / "deaths").iterdir())


def test_wrong_weights_and_a_full_disk_end_the_batch_and_fail_no_row(tmp_path: Path) -> None:
    with pytest.raises(SdxlError, match="the weights are damaged: copy them again"):
        batch(tmp_path, "a horse", make=hooks.make_broken)
    with pytest.raises(OutputError, match="the disk is full"):
        batch(tmp_path, "full")
    assert not list((tmp_path / "out/failed").iterdir()) and not list((tmp_path / "out/deaths").iterdir())


def test_workers_that_die_at_once_end_the_batch(tmp_path: Path) -> None:
    with pytest.raises(SdxlError, match=r"3 workers died before they took a row \(SIGKILL\)"):
        batch(tmp_path, "a horse", make=hooks.make_lethal)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_within_a_step_and_the_next_start_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    path, out = jobs(tmp_path, "a horse", "slow"), tmp_path / "out"
    code = (
        "import sys, signal; from pathlib import Path; from tests.batch import kills; from sdxl.batch import main;"
        "main._batch = lambda given: kills.drive(given.jobs, given.out, False) or 0;"
        "sys.exit(main.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, str(path), str(out)]
    driver = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    end = time.monotonic() + 60
    while hooks.made(out) != ["r0"] and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(0.2)  # the slow row runs by now, on the other worker or this
    for worker in kills.workers_of(driver.pid):  # a terminal and a service manager signal the workers, too
        os.kill(worker, number)
    time.sleep(0.5)
    os.kill(driver.pid, number)
    began = time.monotonic()
    _, said = driver.communicate(timeout=30)
    assert driver.returncode == 130 and said.strip().endswith("the same command goes on with what is left"), said
    assert time.monotonic() - began < 10
    rows = read_jobs(path)
    assert list(Ledger(out).states(rows).values()) == [State.DONE, State.LEFT]
    assert not list(out.rglob("*.part"))
    assert not list((out / "failed").iterdir()) and not list((out / "deaths").iterdir())
