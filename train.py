"""Training from the command line: `python train.py --help`."""

import sys

if __name__ == "__main__":
    try:
        from sdxl.commands.train import main

        raise SystemExit(main())
    except ModuleNotFoundError as missing:
        install = "`source .venv/bin/activate` where make has set things up, or `pip install .`"
        print(f"error: the package {missing.name} is missing: {install}", file=sys.stderr)
        raise SystemExit(2) from missing
