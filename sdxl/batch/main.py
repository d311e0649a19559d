"""`python -m sdxl.batch JOBS OUT`: makes the pictures of a folder, a CSV or a parquet file, and goes on where it was.

What exists in OUT is done. Rows that cannot be made are noted in OUT/failed, rows that killed three workers in
OUT/deaths; --retry tries both again.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from sdxl.batch.driver import drive
from sdxl.batch.jobs import read_jobs
from sdxl.batch.ledger import Ledger, State
from sdxl.batch.perform import Make, Outcome
from sdxl.batch.processes import Processes
from sdxl.batch.row import Row, fold
from sdxl.batch.summary import Summary, summarize
from sdxl.commands.memory import keep_freed_memory
from sdxl.commands.model_flags import add_defaults, add_weights, check_names, defaults_of, weight_fields
from sdxl.commands.parser import Parser, add_json
from sdxl.commands.ray_cluster import add_ray
from sdxl.commands.waiting import wait_shortly
from sdxl.edits.asked import Defaults
from sdxl.errors import InputError
from sige.errors import SigeError
from sige.terminal import escape_logs, fail, say

__all__ = ["main", "run_batch"]

INTERRUPTED = 130
NOT_ALL = 1  # the exit status where some rows failed, or are set aside
EXAMPLES = """\
examples:
  python -m sdxl.batch photos/ out/                       photos/NAME.png NAME.mask.png NAME.txt
  python -m sdxl.batch edits.csv out/ --workers 4 --weight_path sd_xl_base_1.0.safetensors
  python -m sdxl.batch edits.parquet /shared/out --ray --parquet results.parquet
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0; 1 where rows failed; 2 after one line that the user can mend; 130 after Ctrl-C."""
    escape_logs()
    before = signal.getsignal(signal.SIGTERM)
    try:
        given = _parse(arguments)
        signal.signal(signal.SIGTERM, _interrupt)  # what containers and clusters send
        return _batch(given)
    except (SigeError, OSError, MemoryError) as error:
        return fail(str(error) or "not enough memory")
    except KeyboardInterrupt:
        print("interrupted: the same command goes on with what is left", file=sys.stderr)
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _parse(arguments: Sequence[str] | None) -> Namespace:
    from argparse import RawDescriptionHelpFormatter

    parser = Parser(
        prog="python -m sdxl.batch",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=partial(RawDescriptionHelpFormatter, width=118, max_help_position=32),
    )
    parser.add_argument("jobs", type=Path, metavar="JOBS", help="a folder, or a table: .csv, .parquet")
    parser.add_argument("out", type=Path, metavar="OUT", help="a folder for the pictures, OUT/<id>.png")
    parser.add_argument("--retry", action="store_true", help="try again what failed, and what was set aside")
    parser.add_argument("--parquet", type=Path, metavar="FILE", help="in the end, write all results into one file")
    add_ray(parser.add_argument, "workers")
    add_json(parser)
    add_weights(parser, "processes with models of their own (default: one for each GPU, one on the CPU)")
    add_defaults(parser, "edits, where a row says nothing")
    given = parser.parse_args(arguments)
    check_names(given)
    if given.workers is not None and not 1 <= given.workers <= 1024:
        raise InputError(f"--workers: got {given.workers}, expected a number from 1 to 1024")
    return given


def _batch(given: Namespace) -> int:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if given.parquet is not None:
        from sdxl.batch.compact import check_parquet

        check_parquet(given.parquet)
    rows = read_jobs(given.jobs)
    check_outputs(rows, given.jobs, given.out)
    from sdxl.commands.weights import choose_weights, place

    fields = choose_weights(weight_fields(given, "inpainting")).settings
    place(fields)  # refuses a device that is not there
    given.model = fields.model  # what `auto` means is said once, and not by every worker
    defaults = defaults_of(given, fields.model)
    make = partial(_painter, given, sorted({row.task for row in rows}), defaults, given.workers or 1)
    summary = run_batch(rows, given.out, make, defaults, workers=given.workers, ray=given.ray, retry=given.retry)
    if given.parquet is not None:
        from sdxl.batch.compact import compact

        compact(rows, Ledger(given.out), given.parquet)
    say(json.dumps(summary.facts, indent=2) if given.json else summary.table)
    return 0 if summary.is_whole else NOT_ALL


def _painter(given: Namespace, tasks: Sequence[str], defaults: Defaults, workers: int, lane: int) -> Any:
    """The painter of a worker's process, whose first act this is."""
    wait_shortly()
    from sdxl.batch.work import make_painter, quieten

    quieten()
    keep_freed_memory()
    return make_painter(given, tasks, defaults, workers, lane)


def check_outputs(rows: Sequence[Row], jobs: Path, out: Path) -> None:
    """Refuses an OUT whose pictures could be those that rows read: they would count as done, or be overwritten."""
    folders = {out.absolute(), out.resolve()}
    if {jobs.absolute(), jobs.resolve()} & folders:
        raise InputError(f"{out}: is JOBS itself, whose pictures would count as done: take another OUT")
    written = {fold(f"{row.id}.png") for row in rows}
    for row in rows:
        for name, path in row.files.items():
            if path.parent.absolute() in folders and fold(path.name) in written:
                raise InputError(f"row {row.id!r}: {name}: {path} is a file that the batch writes: take another OUT")


def run_batch(
    rows: Sequence[Row],
    out: Path,
    make: Make,
    defaults: Defaults,
    *,
    workers: int | None = None,
    ray: str | None = None,
    retry: bool = False,
) -> Summary:
    """Makes what is left, and returns what became of all rows. `ray`: None for processes, else a cluster's address."""
    began = perf_counter()
    ledger = Ledger(out)
    ledger.prepare()
    outcomes: list[Outcome] = []
    with closing(ledger.lock()):
        if retry:
            ledger.forgive(rows)
        states = ledger.states(rows)
        left = [row for row in rows if states[row.id] is State.LEFT]
        _check_rows(left, defaults)
        if left:
            pool, lanes = _pool(ray, make, out, workers)
            try:
                with _Bar(len(rows), states, outcomes) as seen:
                    drive(left, ledger, pool, lanes, seen)
            finally:
                pool.stop()
        ledger.prepare()  # of workers that died there may be something left
        return summarize(out, ledger.states(rows), outcomes, perf_counter() - began)


def _check_rows(rows: Sequence[Row], defaults: Defaults) -> None:
    """Refuses what does not go with the defaults, and files that are missing, before weights are read."""
    for row in rows:
        try:
            row.check(defaults)
        except SigeError as error:
            raise InputError(f"row {row.id!r}: {error}") from error


def _pool(ray: str | None, make: Make, out: Path, workers: int | None) -> tuple[Any, int]:
    if ray is not None:
        from sdxl.batch.ray_workers import RayWorkers
        from sdxl.commands.ray_cluster import connect, count_gpus

        cluster = connect(ray)
        gpus = count_gpus(cluster)
        return RayWorkers(cluster, make, out, gpus=1 if gpus else 0), workers or gpus or 1
    if workers is None:
        import torch

        workers = max(torch.cuda.device_count(), 1) if torch.cuda.is_available() else 1
    return Processes(make, out), workers


class _Bar:
    """The progress of all rows, and the list of what ended."""

    def __init__(self, total: int, states: dict[str, State], outcomes: list[Outcome]) -> None:
        from threading import RLock

        from tqdm import tqdm

        tqdm.set_lock(RLock())  # its own is a semaphore of the system, which a killed process would leave
        self._outcomes = outcomes
        self._counts = {state: sum(1 for one in states.values() if one is state) for state in State}
        ended = total - self._counts[State.LEFT]
        self._bar = tqdm(total=total, initial=ended, unit="picture", desc="batch", disable=None, leave=False)

    def __enter__(self) -> Callable[[Outcome], None]:
        return self._seen

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def _seen(self, outcome: Outcome) -> None:
        self._outcomes.append(outcome)
        self._counts[outcome.state] += 1
        wrong = {"failed": self._counts[State.FAILED], "aside": self._counts[State.SET_ASIDE]}
        self._bar.set_postfix({name: count for name, count in wrong.items() if count}, refresh=False)
        self._bar.update()


if __name__ == "__main__":
    sys.exit(main())
