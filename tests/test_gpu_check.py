"""tools/gpu_check.sh on a machine without a GPU: a Python that only says what it was asked stands in."""

from __future__ import annotations

import os
import subprocess
import tarfile
from collections import defaultdict
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "tools" / "gpu_check.sh"
LONGEST_STEP, MOST_FILES = 9 * 60, 8

STAND_IN = """#!/bin/bash
case "$*" in
  *FAIL_WORD*) echo "this part fails"; exit 3 ;;
  *get_device_capability*) echo 90 ;;
  *--json*) previous=; for word in "$@"; do [ "$previous" = --json ] && echo '{}' >"$word"; previous=$word; done ;;
esac
echo "asked: $*"
"""


@pytest.fixture
def check(tmp_path: Path) -> object:
    """Runs the script in a process with a Python that fails where its words have `fail` in them."""

    def run(*words: str, fail: str = "nothing at all", wheels: str = "") -> subprocess.CompletedProcess[str]:
        places = tmp_path / "bin"
        places.mkdir(exist_ok=True)
        for name in ("python", "compute-sanitizer", "nvidia-smi", "nvcc"):
            (places / name).write_text(STAND_IN.replace("FAIL_WORD", fail.replace(" ", "\\ ")))
            (places / name).chmod(0o755)
        environment = os.environ | {"PYTHON": str(places / "python"), "PATH": f"{places}:{os.environ['PATH']}"}
        environment["SIGE_WHEELS"] = wheels
        return subprocess.run(
            [str(SCRIPT), *words], capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=120
        )

    return run


def test_each_step_takes_nine_minutes_at_most(check) -> None:  # type: ignore[no-untyped-def]
    limits: dict[str, int] = defaultdict(int)
    for line in check("--plan").stdout.splitlines():
        step, _, seconds = line.split()
        limits[step] += int(seconds)
    assert list(limits) == ["1", "2", "3", "4"]
    assert max(limits.values()) <= LONGEST_STEP


@pytest.mark.parametrize("step", ["1", "2", "3", "4"])
def test_a_step_runs_its_parts_and_leaves_few_files(check, step: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    done = check("out", step)
    parts = [line.split()[1] for line in check("--plan", step).stdout.splitlines()]
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[:3] for line in done.stdout.splitlines()] == [["ok", step, part] for part in parts]
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert f"results-{step}.tar.gz" in left and len(left) <= MOST_FILES
    with tarfile.open(tmp_path / "out" / f"results-{step}.tar.gz") as archive:
        names = archive.getnames()
    assert {f"./{step}-{part}.log" for part in parts} <= set(names)


def test_a_part_that_fails_stops_no_other_and_shows_in_the_status(check, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    done = check("out", "3", fail="benchmarks.products")
    assert done.returncode == 1
    lines = [line for line in done.stdout.splitlines() if line.startswith(("ok ", "FAILED "))]
    assert [line.split()[0] for line in lines] == ["ok", "FAILED", "ok", "ok"]
    assert "status 3" in lines[1] and "this part fails" in done.stdout
    assert (tmp_path / "out" / "3-products.failed.log").exists()
    assert (tmp_path / "out" / "3-attention.json").exists()


def test_a_part_runs_by_its_name_and_a_wrong_one_costs_a_sentence(check) -> None:  # type: ignore[no-untyped-def]
    done = check("out", "racecheck")
    assert done.returncode == 0 and done.stdout.split()[:3] == ["ok", "parts", "racecheck"]
    for wrong in ("5", "step", "packed", "rm"):
        done = check("out", wrong)
        assert done.returncode == 2
        assert done.stderr == f"error: {wrong} is no step and no part: tools/gpu_check.sh --help names them\n"


def test_without_a_gpu_the_script_says_what_to_do(check) -> None:  # type: ignore[no-untyped-def]
    done = check("out", "1", fail="get_device_capability")
    assert done.returncode == 2 and done.stdout == ""
    assert "no torch that sees a GPU: activate another, or name it with PYTHON=" in done.stderr


def test_wheels_are_installed_offline(check, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "diffusers-1-py3-none-any.whl").touch()
    done = check("out", "racecheck", wheels=str(wheels))
    assert done.stdout.splitlines()[0].split()[:3] == ["ok", "wheels", "install"]
    with tarfile.open(tmp_path / "out" / "results-parts.tar.gz") as archive:
        log = archive.extractfile("./wheels-install.log")
        said = log.read().decode() if log else ""
    assert "--no-index" in said and f"--find-links {wheels}" in said and "diffusers-1-py3-none-any.whl" in said
    done = check("out", "racecheck", wheels=str(wheels), fail="pip install")
    assert done.returncode == 1 and done.stdout.startswith("FAILED  wheels install")
    assert "ok      parts racecheck" in done.stdout
