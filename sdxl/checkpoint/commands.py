"""What the small commands on checkpoints share: how they take arguments, and how they end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from sdxl.errors import InputError, SdxlError

__all__ = ["Parser", "add_dtype", "run"]

INTERRUPTED = 130  # what shells report for Ctrl-C


class Parser(argparse.ArgumentParser):
    """Wrong arguments are errors as all others: one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def add_dtype(parser: Parser, default: str) -> None:
    parser.add_argument(
        "--dtype",
        default=default,
        choices=("keep", "fp32", "fp16", "bf16"),
        help=f"of the weights written (default: {default})",
    )


def run(
    command: Callable[[argparse.Namespace], Any],
    parse: Callable[[Sequence[str] | None], argparse.Namespace],
    arguments: Sequence[str] | None,
) -> int:
    """The exit status: 0, 2 after one line that says what the user can mend, 130 after Ctrl-C."""
    try:
        command(parse(arguments))
    except (SdxlError, OSError, MemoryError) as error:
        print("error:", " ".join(str(error or "not enough memory").split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("error: interrupted, nothing was written", file=sys.stderr)
        return INTERRUPTED
    return 0
