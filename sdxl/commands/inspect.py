"""`python -m sdxl.inspect FILE`: describes a checkpoint, reading its header only."""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sdxl.checkpoint.configs import FULL_SIZE
from sdxl.checkpoint.header import Header, Stored, read_header
from sdxl.checkpoint.keys import PREFIXES, is_ignored, is_projection
from sdxl.checkpoint.kinds import family, identify
from sdxl.commands.parser import Parser, add_json, run, tell
from sdxl.errors import CheckpointError
from sige.terminal import as_line

__all__ = ["describe", "main"]

UNKNOWN = "unknown"


def describe(path: Path | str) -> dict[str, Any]:
    """Kind, layout, dtypes, parameters of each part, size, projections and metadata.

    >>> describe(tiny_weights("sdxl-base"))["kind"]
    'sdxl-base'
    """
    header = read_header(path)
    facts: dict[str, Any] = {"path": str(header.path), **_identity(header)}
    facts |= {"tensors": len(header.tensors), "bytes": header.bytes}
    facts["dtypes"] = dict(Counter(stored.dtype for stored in header.tensors.values()).most_common())
    facts["parameters"] = _parameters(header, facts["kind"])
    facts["projections"] = _projections(header)
    return facts | {"metadata": header.metadata}


def _identity(header: Header) -> dict[str, str]:
    try:
        identity = identify(header)
    except CheckpointError as error:
        reason = str(error).removeprefix(f"{header.path}: ")
        return {"kind": UNKNOWN, "layout": UNKNOWN, "reason": reason}
    facts = {"kind": identity.kind, "layout": identity.layout}
    return facts if identity.variant == FULL_SIZE else facts | {"config": identity.variant}


def _parameters(header: Header, kind: str) -> dict[str, int]:
    """The number of parameters of each part; `other` counts those that inference does not read."""
    if kind == UNKNOWN:
        return {"all": _count(header.tensors.values())}
    prefixes = PREFIXES[family(kind)]
    counts = {part: 0 for part in prefixes}
    other = 0
    for name, stored in header.tensors.items():
        part = next((part for part, prefix in prefixes.items() if name.startswith(prefix)), None)
        if part is None or is_ignored(name):
            other += _count([stored])
        else:
            counts[part] += _count([stored])
    return counts | ({"other": other} if other else {})


def _count(tensors: Iterable[Stored]) -> int:
    return sum(math.prod(stored.shape) for stored in tensors)


def _projections(header: Header) -> str:
    """`linear`, `conv`, `linear and conv`, or `none`."""
    ranks = {len(stored.shape) for name, stored in header.tensors.items() if is_projection(name)}
    return " and ".join(name for rank, name in ((2, "linear"), (4, "conv")) if rank in ranks) or "none"


def _as_text(facts: dict[str, Any]) -> str:
    lines = [f"{facts['path']}: {facts['kind']}, {facts['layout']}"]
    lines += [f"  {name:<14} {facts[name]}" for name in ("reason", "config") if name in facts]
    lines += [f"  {'size':<14} {facts['bytes'] / 1e9:.2f} GB in {facts['tensors']} tensors"]
    lines += [f"  {'dtypes':<14} {', '.join(f'{name} ({count})' for name, count in facts['dtypes'].items())}"]
    lines += [f"  {'projections':<14} {facts['projections']}"]
    lines += [f"  {name:<14} {count:,} parameters" for name, count in facts["parameters"].items()]
    lines += [f"  {as_line(name, 80)}: {as_line(value, 80)}" for name, value in facts["metadata"].items()]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0, or 2 after one line that says what the user can mend."""
    return run(_inspect, _parse, arguments)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m sdxl.inspect", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="a .safetensors file")
    add_json(parser)
    return parser.parse_args(arguments)


def _inspect(options: argparse.Namespace) -> None:
    facts = describe(options.file)
    tell(facts, _as_text(facts), options.json)


if __name__ == "__main__":
    sys.exit(main())
