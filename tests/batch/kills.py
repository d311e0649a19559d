"""Kills a batch at random moments, its driver or one of its workers: nothing is lost, and nothing is made twice.

    python -m tests.batch.kills [--kills 100] [--seed 0] [--rows 40] [--ray]

Each start of the batch is killed once (SIGKILL), and the next one goes on. At every moment each picture is whole, and
what is done is never written again. Then a last start runs to its end: all rows are done, but those that kill their
workers, which are set aside, and nothing is left of those that died.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from sdxl.batch.jobs import read_jobs
from sdxl.batch.ledger import Ledger, State
from sdxl.batch.main import run_batch
from sdxl.edits.asked import Defaults
from tests.batch import hooks

__all__ = ["Killed", "kill_often", "make_jobs", "workers_of"]

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 60.0  # seconds to wait for the first sign of a start


@dataclass
class Killed:
    """What a run of many kills has found."""

    kills: Counter[str] = field(default_factory=Counter)  # of drivers, of workers
    states: Counter[State] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    twice: int = 0


def make_jobs(folder: Path, rows: int, lethal: int) -> Path:
    """A table with some rows that kill their workers, in between the others."""
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    every = rows // lethal if lethal else rows + 1
    lines = [f"r{number},a.png,{'kills' if number % every == every - 1 else 'a horse'}" for number in range(rows)]
    (folder / "jobs.csv").write_text("\n".join(["id,image,prompt", *lines]) + "\n")
    return folder / "jobs.csv"


def kill_often(folder: Path, kills: int, rows: int, lethal: int, seed: int = 0, ray: bool = False) -> Killed:
    """Kills a batch so often, in the middle of its work, and then lets it end."""
    rng, found = random.Random(seed), Killed()
    jobs, out = make_jobs(folder, rows, lethal), folder / "out"
    seen: dict[str, tuple[int, int]] = {}
    for number in range(kills):
        driver = _start(jobs, out, ray)
        _await_work(driver, out)
        time.sleep(rng.random() * 0.4)
        victim = "worker" if number % 2 else "driver"
        found.kills[victim] += _kill(driver, victim, rng)
        if victim == "worker":
            time.sleep(rng.random() * 0.3)
        driver.kill()  # after a worker's death, too: the start is over
        driver.wait()
        found.wrong += _look(out, seen, f"after kill {number}")
    last = _start(jobs, out, ray)
    _, said = last.communicate(timeout=600)
    if last.returncode:
        found.wrong.append(f"the last start ends with {last.returncode}: {said[-2000:]}")
    found.wrong += _look(out, seen, "in the end")
    found.wrong += [f"left: {path.relative_to(out)}" for path in out.rglob("*.part")]
    found.states = Counter(Ledger(out).states(read_jobs(jobs)).values())
    counts = Counter(hooks.made(out))
    found.twice = sum(1 for count in counts.values() if count > 1)
    return found


def _start(jobs: Path, out: Path, ray: bool) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.batch.kills", "--drive", str(jobs), str(out)] + ["--ray"] * ray
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)


def _await_work(driver: subprocess.Popen[str], out: Path) -> None:
    """Waits until this start has begun to work, or has ended."""
    before, end = len(hooks.made(out)), time.monotonic() + LONGEST
    while time.monotonic() < end and driver.poll() is None and len(hooks.made(out)) == before:
        time.sleep(0.01)


def _kill(driver: subprocess.Popen[str], victim: str, rng: random.Random) -> int:
    """Kills the driver or one of its children; returns 1, or 0 where there was nobody to kill."""
    pids = [driver.pid]
    if victim == "worker":
        pids = workers_of(driver.pid) or _actors()
    if driver.poll() is not None or not pids:
        return 0
    try:
        os.kill(rng.choice(pids), signal.SIGKILL)
    except ProcessLookupError:
        return 0
    return 1


def workers_of(driver: int) -> list[int]:
    """The processes of a driver's workers."""
    try:
        children = Path(f"/proc/{driver}/task/{driver}/children").read_text().split()
    except OSError:
        return []
    return [pid for pid in map(int, children) if b"spawn_main" in _command(pid)]


def _actors() -> list[int]:
    """The processes of Ray's actors on this machine."""
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
    return [pid for pid in pids if _command(pid).startswith(b"ray::_Actor")]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _look(out: Path, seen: dict[str, tuple[int, int]], when: str) -> list[str]:
    """What is wrong with the pictures now; remembers which file each is."""
    wrong = []
    for path in out.glob("*.png"):
        facts = path.stat()
        is_it = facts.st_ino, facts.st_mtime_ns
        try:
            with Image.open(path) as image:
                image.load()
        except OSError as error:
            wrong.append(f"{path.name} {when}: it is damaged ({error})")
        if seen.setdefault(path.name, is_it) != is_it:
            wrong.append(f"{path.name} {when}: it was written again")
    wrong += [f"{name} {when}: it is gone" for name in seen if not (out / name).exists()]
    return wrong


def drive(jobs: Path, out: Path, ray: bool) -> None:
    """One start of the batch."""
    run_batch(read_jobs(jobs), out, hooks.make, Defaults(), workers=2, ray="" if ray else None)


def main() -> int:
    options = _parse()
    if options.drive:
        drive(Path(options.drive[0]), Path(options.drive[1]), options.ray)
        return 0
    began = time.perf_counter()
    rows = options.rows or max(options.kills * 12, 40)
    with tempfile.TemporaryDirectory(prefix="sige-batch-") as folder:
        found = kill_often(Path(folder), options.kills, rows, max(rows // 40, 1), options.seed, options.ray)
    print(*found.wrong, sep="\n", end="\n" if found.wrong else "")
    counts = ", ".join(f"{found.states[state]} {state}" for state in State)
    lost = rows - sum(found.states.values()) + found.states[State.LEFT]
    print(f"{found.kills['driver']} drivers and {found.kills['worker']} workers killed by hand, seed {options.seed}")
    print(f"{rows} rows: {counts}; {lost} lost, {found.twice} made twice, {len(found.wrong)} other faults, "
          f"{time.perf_counter() - began:.0f} s")  # fmt: skip
    return 1 if found.wrong or lost or found.twice else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.batch.kills", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--ray", action="store_true", help="workers as actors of Ray")
    parser.add_argument("--drive", nargs=2, metavar=("JOBS", "OUT"), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
