"""The command line: flags to settings, settings to a picture or a profile, errors to one line."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable, Sequence

from sdxl.commands.flags import parse
from sdxl.commands.memory import keep_freed_memory
from sdxl.commands.rules import in_flags
from sdxl.commands.settings import Settings
from sdxl.commands.waiting import wait_shortly
from sdxl.errors import is_out_of_memory
from sige.errors import SigeError
from sige.terminal import escape_logs, fail, say

__all__ = ["main"]

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0; 2 after one line that says what the user can mend; 130 after Ctrl-C."""
    settings = None
    escape_logs()
    if arguments is None:  # a process of our own
        keep_freed_memory()
        wait_shortly()
    try:
        settings = parse(sys.argv[1:] if arguments is None else arguments)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module="diffusers")  # about its own code
            for line in _run(settings):
                say(line)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except SigeError as error:
        return fail(in_flags(error))
    except OSError as error:
        if error.filename is None:  # then it is no file that the user has named
            raise
        return fail(f"{error.filename}: {error.strerror}: check the name, and that it is permitted")
    except Exception as error:
        if settings is not None and is_out_of_memory(error):
            return fail(_advice(settings))
        raise
    return 0


def _run(settings: Settings) -> Iterable[str]:
    """Runs the command, and gives the lines that are printed, each as soon as it is true."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # on import it warns of packages that we do not need
    if settings.generates:
        from sdxl.commands import tasks

        return tasks.run(settings)
    from sdxl.commands import profile  # torch and diffusers, which take seconds to import

    return [profile.run(settings)]


def _advice(settings: Settings) -> str:
    less = ["a smaller --H and --W"]
    if settings.dtype in ("auto", "fp32"):
        less.append("--dtype bf16")
    if settings.refined:
        less.append("no --refined")
    if not settings.generates:
        less.append("--macs_only")
    return f"not enough memory with --device {settings.device}: take {', or '.join(less)}"
