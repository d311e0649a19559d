"""`python -m sdxl.serve`: the door to `sdxl.serve.main`."""

import sys

from sdxl.serve.main import main

if __name__ == "__main__":
    sys.exit(main())
