"""`python -m sdxl.export`: a single file as a diffusers folder, and back. The door to `sdxl.commands.export`."""

import sys

from sdxl.commands.export import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
