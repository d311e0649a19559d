"""Training from the command line: `python train.py --help`."""

from sdxl.training.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
