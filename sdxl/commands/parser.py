"""The argument parser, the flags --dtype and --json and the exit status, which the small commands share."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from sdxl.errors import InputError
from sige.dtypes import DTYPE_NAMES, named_dtype
from sige.errors import SigeError
from sige.terminal import escape_logs, fail, say

if TYPE_CHECKING:
    import torch

__all__ = ["Parser", "add_dtype", "add_json", "chosen_dtype", "run", "tell"]

KEEP = "keep"  # each tensor's own dtype
INTERRUPTED = 130  # what shells report for Ctrl-C


class Parser(argparse.ArgumentParser):
    """A parser that reports wrong arguments like all other errors, in one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def add_dtype(parser: Parser, default: str) -> None:
    parser.add_argument(
        "--dtype",
        default=default,
        choices=(KEEP, *DTYPE_NAMES),
        help=f"of the weights written (default: {default})",
    )


def add_json(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print all facts as JSON")


def tell(facts: Mapping[str, Any], line: str, as_json: bool) -> None:
    """Prints the facts as JSON, or the line that says the same in words."""
    say(json.dumps(facts, indent=2) if as_json else line)


def chosen_dtype(name: str) -> torch.dtype | None:
    """The dtype that `--dtype` names; None where each tensor keeps its own."""
    return None if name == KEEP else named_dtype(name)


def run(
    command: Callable[[argparse.Namespace], Any],
    parse: Callable[[Sequence[str] | None], argparse.Namespace],
    arguments: Sequence[str] | None,
    interrupted: str = "error: interrupted, nothing was written",
) -> int:
    """Runs a command; returns 0, 2 after one line that says what the user can mend, 130 after Ctrl-C, which it says."""
    escape_logs()
    try:
        command(parse(arguments))
    except (SigeError, OSError, MemoryError) as error:
        return fail(str(error) or "not enough memory")
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return INTERRUPTED
    return 0
