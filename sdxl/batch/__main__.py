"""`python -m sdxl.batch`: the door to `sdxl.batch.main`."""

import sys

from sdxl.batch.main import main

if __name__ == "__main__":
    sys.exit(main())
