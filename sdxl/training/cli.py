"""`python train.py --config FILE`: one stage of training, resumable; on several devices by `accelerate launch`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from sdxl.errors import InputError, SdxlError

__all__ = ["main"]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0; 2 after one line that says what the user can mend; 130 after Ctrl-C."""
    parser = _Parser(prog="python train.py", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="one of configs/train/*.yaml")
    try:
        plan_file = parser.parse_args(arguments).config
        from sdxl.training.plan import load_plan

        plan = load_plan(plan_file)
        from sdxl.training.stages import run  # diffusers, which takes seconds to import

        print(f"wrote {run(plan)}")
    except SdxlError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from the last state", file=sys.stderr)
        return 130
    return 0
