"""The parts that all benchmarks share: interleaved timing, the facts about the machine, a table, a JSON file."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import sige
from sige import profiling
from sige.dtypes import DTYPE_NAMES
from sige.files import atomic_write
from sige.profiling import Candidate, Timing

ROOT = Path(__file__).resolve().parent.parent
Row = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """The settings that the command line of a benchmark gives."""

    runs: int
    device: torch.device
    dtypes: tuple[str, ...]
    json: Path | None


def interleaved(functions: dict[str, Callable[[], object]], options: Options) -> dict[str, Timing]:
    """Times the functions in turn, after two rounds to warm up."""
    candidates = {name: Candidate(function) for name, function in functions.items()}
    return profiling.interleaved(candidates, options.runs, options.device)


def machine() -> dict[str, Any]:
    """The facts that every figure depends on: the processor, the threads, the versions, the commit, the backends."""
    facts: dict[str, Any] = {
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "instructions": instructions(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": version("diffusers"),
        "numpy": np.__version__,
        "sige": sige.__version__,
        "commit": commit(),
        "backends": {backend.device: "native" if backend.native else "reference" for backend in sige.ops.backends()},
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
        facts["cuda"] = torch.version.cuda
    return facts


def cpu_name() -> str:
    """The processor's name where the system tells it, else its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def instructions() -> str:
    """The instruction set that our CPU kernels use."""
    try:
        from sige import _host
    except ImportError:
        return "none: the reference runs"
    return str(_host.cpu_variant())


def commit() -> str:
    """The commit that is measured, with a mark if the tree has changes."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=10"], cwd=ROOT, capture_output=True, text=True
    )
    return described.stdout.strip() or "unknown"


def run(
    description: str | None, measure: Callable[[Options], list[Row]], arguments: Sequence[str] | None = None
) -> None:
    """Runs a benchmark as its command line says: measures, prints the table, writes the JSON."""
    options = parse(description, arguments)
    facts = machine()
    print((description or "").splitlines()[0])
    print(", ".join(f"{name} {value}" for name, value in facts.items() if name != "backends"))
    rows = measure(options)
    print_table(rows)
    if options.json:
        settings = {key: str(value) for key, value in asdict(options).items() if key != "json"}
        write_json(options.json, {"machine": facts, "settings": settings, "rows": rows})


def parse(description: str | None, arguments: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=7, help="counted runs per figure, after two to warm up")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument("--dtypes", default="fp32", help=f"comma-separated: {','.join(DTYPE_NAMES)}")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write figures, machine and settings to OUT")
    parsed = parser.parse_args(arguments)
    dtypes = tuple(parsed.dtypes.split(","))
    if unknown := set(dtypes) - set(DTYPE_NAMES):
        parser.error(f"--dtypes: {', '.join(sorted(unknown))} is unknown, expected {', '.join(DTYPE_NAMES)}")
    if parsed.runs < 1:
        parser.error("--runs must be at least 1")
    if parsed.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("--device cuda: this torch sees no GPU")
    return Options(parsed.runs, torch.device(parsed.device), dtypes, parsed.json)


def print_table(rows: list[Row]) -> None:
    """Prints the rows as a table with aligned columns."""
    texts = [list(rows[0])] + [[_text(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for line in texts:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
    print()


def _text(value: Any) -> str:
    if isinstance(value, Timing):
        return f"{value.median:.3g}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes the content as JSON; a timing becomes an object with median, min, max and runs."""
    with atomic_write(path, parents=True) as temporary:
        temporary.write_text(json.dumps(content, indent=2, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    return asdict(value) if isinstance(value, Timing) else value.item() if isinstance(value, np.generic) else str(value)
