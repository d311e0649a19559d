"""50 held-out edits on the embedded model, sparse and otherwise, scored against the dense result of the same seed.

    python -m benchmarks.quality [--rows NAMES] [--json OUT] [--plot OUT.png] [--pictures FOLDER] [--markdown OUT.md]

Every row makes the same edits with the same seeds. PSNR and SSIM are inside the mask and in the 16 pixels along its
edge; MACs and seconds are shares of the dense edit's. Rows of a JSON that is there already are kept: run the table in
as many sittings as you like. docs/quality.md says what exactly is measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import machine, print_table
from benchmarks.quality.bench import Bench, settings_of
from benchmarks.quality.edits import SETS
from benchmarks.quality.pictures import save_pictures
from benchmarks.quality.plot import plot
from benchmarks.quality.results import Results
from benchmarks.quality.table import by_class, markdown, overview
from benchmarks.quality.ways import Way, default_way, select
from sdxl.checkpoint.embedded import embedded_weights
from sdxl.errors import InputError
from sdxl.pipelines.schedulers import SCHEDULERS
from sige.errors import SigeError
from sige.files import atomic_write

TINY = "tiny"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        _run(options)
    except SigeError as error:
        parser.error(str(error))


def _run(options: argparse.Namespace) -> None:
    ways = select(options.rows, options.steps)
    if options.list:
        print("\n".join(way.name for way in ways))
        return
    facts = machine()
    print(", ".join(f"{name} {value}" for name, value in facts.items() if name != "backends"))
    edits = SETS[options.set](options.edits, options.side)
    weights = _weights(options.weights)
    settings = settings_of(weights, edits, steps=options.steps, scale=options.scale, scheduler=options.scheduler)
    results, bench = Results(settings, edits), Bench(weights, edits, settings, options.cache)
    if options.json and options.json.is_file():
        results.read(options.json)
    shown = default_way(options.steps)
    if options.pictures and shown not in ways and shown.name not in results.rows:
        raise InputError(f"--pictures shows the row {shown.name!r}: name it in --rows, too")
    _measure(bench, ways, results, options.json)
    names = [way.name for way in ways]
    print_table(overview(results, names))
    print_table(by_class(results, names))
    if options.plot:
        plot(results, list(results.rows), options.plot)
    if options.pictures:
        print(f"pictures in {save_pictures(bench, shown, results.rows[shown.name], options.pictures)}")
    if options.markdown:
        with atomic_write(options.markdown, parents=True) as temporary:
            temporary.write_text(markdown(results, names))


def _measure(bench: Bench, ways: Sequence[Way], results: Results, path: Path | None) -> None:
    for way in ways:
        if way.name in results.rows:
            continue
        results.add(way.name, bench.measure(way))
        print_table(overview(results, [way.name]))
        if path:  # after each row: one takes minutes
            results.write(path)


def _weights(name: str | None) -> Path:
    if name != TINY:
        return Path(name) if name else embedded_weights()
    from sdxl.checkpoint.tiny import tiny_weights

    return tiny_weights()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--weights", metavar="FILE", help="a checkpoint (default: the embedded base); tiny for random weights")
    add("--edits", type=_count, default=50, help="how many edits, from 2 to 40 %% of the picture")
    add(
        "--set",
        choices=list(SETS),
        default="A",
        help="A; B, on which no default was chosen; sdedit: pictures painted over; tuning: to choose settings on",
    )
    add("--side", type=_count, default=256, help="of the pictures, in pixels: a multiple of 8")
    add("--steps", type=_count, default=30, help="of an edit")
    add("--scheduler", choices=list(SCHEDULERS), default="ddim", help="by its name on the command line of run.py")
    add("--scale", type=float, default=4.0, help="guidance; 1 for none")
    add("--rows", nargs="+", default=["*"], metavar="NAME", help="rows by name or pattern, 'temporal-7 *'; see --list")
    add("--list", action="store_true", help="only say what the rows are called")
    add("--cache", type=Path, default=Path("out/quality"), metavar="FOLDER", help="keeps the dense results")
    add("--json", type=Path, metavar="OUT", help="scores; rows that are in it already are not measured again")
    add("--plot", type=Path, metavar="OUT.png", help="quality against work, of all rows in the JSON")
    add("--pictures", type=Path, metavar="FOLDER", help="best, median and worst edit of the default setting")
    add("--markdown", type=Path, metavar="OUT.md", help="the tables of the chosen rows, to paste")
    return parser


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {value}, expected at least 1")
    return value


if __name__ == "__main__":
    main()
