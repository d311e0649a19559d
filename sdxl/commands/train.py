"""One stage of training, resumable: `python train.py --config FILE [key=value ...]`; docs/training.md has every key.

On several devices: `accelerate launch train.py --config FILE`. The same command again goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from sdxl.commands.memory import keep_freed_memory
from sdxl.commands.parser import Parser
from sdxl.commands.waiting import wait_shortly
from sige.config_files import config_folder
from sige.errors import SigeError
from sige.terminal import escape_logs, fail, say

__all__ = ["main"]

_CONFIGS = config_folder() / "train"
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0; 2 after one line that says what the user can mend; 130 after Ctrl-C."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # on import it warns of packages that we do not need
    escape_logs()
    if arguments is None:  # a process of our own
        keep_freed_memory()
        wait_shortly()
    try:
        options = _parser().parse_args(arguments)
        from sdxl.training.plan import load_plan

        plan = load_plan(options.config, options.overrides)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module="diffusers")  # about its own code
            from transformers.utils.logging import disable_progress_bar

            from sdxl.training.stages import run  # diffusers, which takes seconds to import

            disable_progress_bar()  # the bar of writing a text encoder, which takes a moment
            if said := run(plan):  # one of several processes returns a line
                say(said)
    except (SigeError, OSError) as error:
        return fail(str(error))
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from the last state", file=sys.stderr)
        return _INTERRUPTED
    except Exception as error:
        if not {"MemoryError", "OutOfMemoryError"} & {kind.__name__ for kind in type(error).__mro__}:
            raise
        return fail("not enough memory: take a larger loop.accumulate, loop.gradient_checkpointing=true, or learn=lora")
    return 0


def _parser() -> Parser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog="python train.py", description=__doc__, epilog=_known(), formatter_class=formatter)
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="one of those below, or your own")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="instead of the file's own, such as loop.steps=10"
    )
    return parser


def _known() -> str:
    """The project's configurations, each with the first line of its comment."""
    files = sorted(_CONFIGS.glob("*.yaml"))
    lines = [f"  {file.name:<22}{file.read_text().splitlines()[0].removeprefix('# ')}" for file in files]
    return "\n".join(["configurations in configs/train:", *lines]) if lines else ""
