"""The command line: `python run.py --help`."""

from sdxl.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
