"""`python -m sdxl.demo`: three edits by the embedded model. The door to `sdxl.commands.demo`."""

import sys
from collections.abc import Sequence

from sdxl.commands.waiting import wait_shortly

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0, or 2 after one line that says what the user can mend."""
    if arguments is None:  # a process of our own
        wait_shortly()
    from sdxl.commands import demo  # torch, which reads how to wait

    return demo.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
