"""`python -m sdxl.inspect`: what a checkpoint is. The door to `sdxl.commands.inspect`."""

import sys

from sdxl.commands.inspect import describe, main

__all__ = ["describe", "main"]

if __name__ == "__main__":
    sys.exit(main())
