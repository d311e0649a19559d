"""`python -m sdxl.demo`: three edits by the embedded model. The door to `sdxl.commands.demo`."""

import sys

from sdxl.commands.demo import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
