"""The harness itself: it finds planted faults of each kind, makes the same cases again, and finds nothing here."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sdxl.errors import InputError
from sige.errors import ConfigError
from tests.fuzz.guard import guarded
from tests.fuzz.mutate import mutate_bytes, mutate_json, mutate_lines, mutate_words

ROOT = Path(__file__).resolve().parents[2]


def foreign() -> None:
    raise ValueError("of a library")


def fails(error: BaseException) -> None:
    raise error


def endless() -> None:
    while True:
        pass


def hoards() -> None:
    sum(len(bytes(10**8)) for _ in range(2))
    kept = [bytearray(b"x") * 10**8 for _ in range(6)]
    del kept


@pytest.mark.parametrize(
    ("case", "key"),
    [
        (foreign, "ValueError in a library"),
        (endless, "hang in"),
        (lambda: time.sleep(9), "hang in"),
        (hoards, "memory"),
        (lambda: 1, "status 1"),
        (lambda: fails(SystemExit(3)), "status 3"),
        (lambda: print("\x1b[2J"), "control character on stdout"),
        (lambda: print("a" * 10_000, file=sys.stderr), "long line on stderr"),
        (lambda: print("\ud800"), "UnicodeEncodeError"),
    ],
)
def test_a_planted_fault_is_found(case: object, key: str) -> None:
    finding = guarded(case, seconds=30 if key == "memory" else 0.5)  # type: ignore[arg-type]
    assert finding is not None and finding.key.startswith(key)


@pytest.mark.parametrize("error", [InputError("x"), ConfigError("x"), SystemExit(0), SystemExit(2)])
def test_our_own_errors_are_no_finding(error: BaseException) -> None:
    assert guarded(lambda: fails(error)) is None
    assert guarded(lambda: 2) is None and guarded(lambda: print("ein Pferd 馬")) is None


def test_a_seed_makes_the_same_cases_and_another_makes_others() -> None:
    content = {"a": [1, 2, {"b": "text"}], "c": 1.5}
    makers = (
        lambda rng: mutate_bytes(b"some bytes", rng),
        lambda rng: mutate_json(content, rng),
        lambda rng: mutate_lines("a: 1\nb: [1, 2]", rng),
        lambda rng: json.dumps(mutate_words(["--a", "b"], ["--c"], rng)).encode(),
    )
    for make in makers:
        cases = [make(random.Random(seed)) for seed in range(40)]
        assert cases == [make(random.Random(seed)) for seed in range(40)]
        assert len(set(cases)) > 20


def test_some_hundred_cases_find_nothing(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.fuzz",
        "--cases",
        "300",
        "--seconds",
        "60",
        "--seed",
        "1",
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fuzz: 300 cases, 0 findings" in done.stdout
    assert list(tmp_path.iterdir()) == []
