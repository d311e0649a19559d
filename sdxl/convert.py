"""`python -m sdxl.convert`: a checkpoint with another dtype or projections. The door to `sdxl.commands.convert`."""

import sys

from sdxl.commands.convert import convert, main

__all__ = ["convert", "main"]

if __name__ == "__main__":
    sys.exit(main())
