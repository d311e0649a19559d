"""`python -m sige.profiling`: what an edit costs dense and packed, as a table, as JSON, as a chart."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch

from sige.dtypes import DTYPE_NAMES, named_dtype
from sige.errors import SigeError
from sige.profiling import inputs, report
from sige.profiling.macs import ProfilingError
from sige.profiling.models import MODELS, build
from sige.region import Region
from sige.terminal import fail, say


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status: 0, or 2 after one line that says what the user can mend."""
    try:
        options = _parse(arguments)
        profile = _profile(options, _region(options))
        say(report.as_text(profile))
        if options.json:
            report.write_json(profile, options.json)
        if options.chart:
            report.draw_chart(profile, options.chart)
    except (SigeError, OSError, MemoryError) as error:
        return fail(str(error) or "not enough memory")
    except RuntimeError as error:  # out of memory has no type of its own on the CPU
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        return fail(f"not enough memory on {options.device}: take a smaller --size, --batch or --dtype")
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ProfilingError(message)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(prog="python -m sige.profiling", description=__doc__)
    parser.add_argument("--model", required=True, help=", ".join(MODELS))
    parser.add_argument("--size", required=True, type=_size, metavar="512x1024", help="height x width of the image")
    region = parser.add_mutually_exclusive_group(required=True)
    region.add_argument("--mask", type=Path, metavar="FILE", help=".npy, PNG, JPEG, WebP; all but zero is edited")
    region.add_argument("--rect", type=int, nargs=4, metavar=("TOP", "LEFT", "HEIGHT", "WIDTH"), help="in pixels")
    region.add_argument("--original", type=Path, metavar="FILE", help="the image before the edit")
    parser.add_argument("--edited", type=Path, metavar="FILE", help="the image after it: what differs is edited")
    parser.add_argument("--threshold", type=float, default=0.0, help="largest difference to ignore, from 0 to 1")
    parser.add_argument("--dilation", type=int, default=1, help="positions to widen the mask by at every level")
    parser.add_argument("--batch", type=int, help="2 for a UNet and 1 for a VAE unless given")
    parser.add_argument("--macs-only", action="store_true", help="count only: no weights, no time")
    parser.add_argument("--dtype", default="fp32", help=", ".join(DTYPE_NAMES))
    parser.add_argument("--device", default="cpu", help="cpu, cuda")
    parser.add_argument("--runs", type=int, default=5, help="timed runs, after two to warm up")
    parser.add_argument("--chart", type=Path, metavar="OUT.png", help="draw where the work goes (needs matplotlib)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write figures and settings")
    options = parser.parse_args(arguments)
    _check(options)
    return options


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected height x width, as in 512x1024")
    return int(height), int(width)


def _check(options: argparse.Namespace) -> None:
    """Refuses options that argparse accepts and that cannot work, before anything takes time."""
    for flag, value, known in (
        ("--model", options.model, MODELS),
        ("--dtype", options.dtype, DTYPE_NAMES),
        ("--device", options.device, ("cpu", "cuda")),
    ):
        if value not in known:
            raise ProfilingError(f"{flag}: got {value!r}, expected one of {', '.join(known)}")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ProfilingError("--device cuda: torch sees no GPU here; take --device cpu, or --macs-only")
    if (options.original is None) != (options.edited is None):
        raise ProfilingError("--original and --edited go together: give both images, or a --mask or a --rect")
    if options.runs < 1:
        raise ProfilingError(f"--runs: got {options.runs}, expected at least 1")
    if options.chart and importlib.util.find_spec("matplotlib") is None:
        raise ProfilingError("--chart needs matplotlib: pip install matplotlib")
    for flag, path in (("--json", options.json), ("--chart", options.chart)):
        if path and path.is_dir():
            raise ProfilingError(f"{flag}: {path} is a folder, expected a file")


def _region(options: argparse.Namespace) -> Region:
    if options.rect is not None:
        return inputs.from_rectangle(options.size, options.rect, options.dilation)
    if options.mask is not None:
        return inputs.from_mask_file(options.size, options.mask, options.dilation)
    return inputs.from_files(options.size, options.original, options.edited, options.threshold, options.dilation)


def _profile(options: argparse.Namespace, region: Region) -> dict[str, Any]:
    subject = build(options.model, options.size, options.batch)
    where: dict[str, Any] = {"device": options.device, "dtype": named_dtype(options.dtype)}
    timed = None if options.macs_only else partial(build, options.model, options.size, options.batch, **where)
    settings = _settings(options) | {"batch": subject.batch}
    return report.make_profile(subject, region, settings, timed, options.runs)


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    if options.rect is not None:
        region = "rect " + " ".join(map(str, options.rect))
    elif options.mask is not None:
        region = f"mask {options.mask}"
    else:
        region = f"{options.original} against {options.edited} above {options.threshold}"
    return {
        "model": options.model,
        "size": f"{options.size[0]}x{options.size[1]}",
        "region": region,
        "dilation": options.dilation,
        "macs_only": options.macs_only,
        "dtype": options.dtype,
        "device": options.device,
        "runs": options.runs,
    }


if __name__ == "__main__":
    sys.exit(main())
