"""Fuzzes the readers and the command lines: `make fuzz`, `make fuzz SECONDS=60 SEED=3`.

A finding is an error that is not ours, a hang of more than 5 seconds, more than 500 MB of memory, a control character
or an endless line on the terminal. Each is written to `out/fuzz` with what it did: `--replay FILE` runs it again.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import os
import random
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from time import perf_counter

import diffusers
import pytest
import torch

from tests.fuzz.corpus import make_corpus
from tests.fuzz.guard import Finding, guarded
from tests.fuzz.lines import stop_before_models
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

KEPT = 3  # inputs of each finding that are written


class Fuzzer:
    """Runs cases, counts them, and writes those that find something."""

    def __init__(self, seed: int, out: Path) -> None:
        self.seed, self.out = seed, out
        self.cases: Counter[str] = Counter()
        self.findings: Counter[str] = Counter()
        self.slowest: dict[str, float] = {}

    def step(self, target: Target) -> Finding | None:
        """One case. It depends on the seed, the target and its number alone."""
        number = self.cases[target.name]
        case = target.make(Path.cwd(), random.Random(f"{self.seed} {target.name} {number}"))
        self.cases[target.name] += 1
        current = self.out / "current.bin"  # what is left of a case that ends the process
        current.write_bytes(case)
        began = perf_counter()
        finding = guarded(lambda: target.run(case))
        self.slowest[target.name] = max(self.slowest.get(target.name, 0.0), perf_counter() - began)
        if finding is not None:
            key = f"{target.name}: {finding.key}"
            self.findings[key] += 1
            if self.findings[key] <= KEPT:
                self._keep(f"{target.name}-{self.seed}-{number}", case, finding)
        return finding

    def _keep(self, name: str, case: bytes, finding: Finding) -> None:
        (self.out / f"{name}.bin").write_bytes(case)
        text = f"{finding.key}\n\n{finding.details}"
        (self.out / f"{name}.txt").write_text(text, encoding="utf-8", errors="backslashreplace")

    def summary(self, seconds: float) -> str:
        lines = [f"  {name:<22}{count:>7} cases, the slowest {self.slowest[name]:.2f} s"
                 for name, count in sorted(self.cases.items())]  # fmt: skip
        lines += [f"  finding, {count} times: {key}" for key, count in self.findings.most_common()]
        total, found = self.cases.total(), self.findings.total()
        lines += [f"fuzz: {total:,} cases, {found} findings, {seconds:.0f} s, seed {self.seed}"]
        return "\n".join(lines)


def main() -> int:
    options = _parse()
    out = options.out.absolute()
    replayed = None if options.replay is None else options.replay.absolute()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="sige-fuzz-") as outer, pytest.MonkeyPatch.context() as patch:
        folder = Path(outer) / "a" / "b"  # "../x" stays inside
        folder.mkdir(parents=True)
        patch.chdir(folder)
        _quiet()
        make_corpus(folder)
        stop_before_models(patch)
        if replayed is not None:
            return _replay(replayed)
        fuzzer, seconds = Fuzzer(options.seed, out), options.seconds
        targets = [target for target in TARGETS if options.target in (None, target.name)]
        turns, began = random.Random(options.seed), perf_counter()
        _warm_up(targets)
        while perf_counter() - began < seconds and fuzzer.cases.total() < options.cases:
            fuzzer.step(turns.choices(targets, [target.weight for target in targets])[0])
        print(fuzzer.summary(perf_counter() - began))
        (out / "current.bin").unlink(missing_ok=True)
    return 1 if fuzzer.findings else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="how long (default: 600)")
    parser.add_argument(
        "--cases", type=int, default=10**9, help="at most so many (default: as many as there is time for)"
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed makes the same cases (default: 0)")
    parser.add_argument("--target", choices=[target.name for target in TARGETS], help="this one alone")
    parser.add_argument("--out", type=Path, default=Path("out/fuzz"), help="for findings (default: out/fuzz)")
    parser.add_argument("--replay", type=Path, metavar="FILE.bin", help="run the input of one finding again")
    return parser.parse_args()


def _quiet() -> None:
    """No bars, no threads, no garbage of the libraries to walk; a crash in C names its place."""
    os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    diffusers.utils.logging.set_verbosity_error()
    faulthandler.enable()
    gc.freeze()


def _warm_up(targets: list[Target]) -> None:
    """One case of each, which does not count: imports take time and memory."""
    for target in targets:
        guarded(lambda target=target: target.run(target.make(Path.cwd(), random.Random(0))), seconds=60)  # type: ignore[misc]


def _replay(path: Path) -> int:
    target = max((one for one in TARGETS if path.name.startswith(one.name)), key=lambda one: len(one.name))
    finding = guarded(lambda: target.run(path.read_bytes()))
    print("nothing is found" if finding is None else f"{finding.key}\n\n{finding.details}")
    return 0 if finding is None else 1


if __name__ == "__main__":
    sys.exit(main())
