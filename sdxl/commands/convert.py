"""`python -m sdxl.convert IN OUT`: rewrites projections as 1x1 convolutions or linear layers, and changes the dtype."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from sdxl.checkpoint.header import Header, Stored, read_header
from sdxl.checkpoint.keys import is_projection
from sdxl.checkpoint.tensors import DTYPES, NAMES, TensorReader, Written, file_bytes, write_tensors
from sdxl.commands.parser import Parser, add_dtype, add_json, chosen_dtype, run, tell
from sdxl.errors import CheckpointError, InputError
from sige.files import atomic_write, check_free_space
from sige.leftovers import remove_leftovers

__all__ = ["convert", "main"]

PROJECTIONS = ("conv", "linear", "keep")
PIECE = 8 << 20  # items in memory at a time, whatever the size of a tensor


def convert(
    source: Path | str,
    target: Path | str,
    *,
    projections: str = "conv",
    dtype: torch.dtype | None = torch.float32,
    in_place: bool = False,
    force: bool = False,
    progress: bool = True,
) -> None:
    """Writes `target` from `source`, a piece of a tensor at a time; `dtype` None keeps each tensor's own.

    Metadata, names and tensors that are not floats stay as they are. If the program is killed, the old file or the new
    one is there, whole.

    >>> convert(folder / "tiny.safetensors", folder / "half.safetensors", dtype=torch.float16, progress=False)
    >>> read_header(folder / "half.safetensors").tensors["x"].dtype
    'F16'
    """
    source, target = Path(source), Path(target)
    header = read_header(source)
    _check_target(source, target, in_place, force)
    if projections not in PROJECTIONS:
        raise InputError(f"projections: got {projections!r}, expected one of {', '.join(PROJECTIONS)}")
    from tqdm import tqdm

    with TensorReader(header) as reader:
        tensors = {name: _planned(reader, name, stored, projections, dtype) for name, stored in header.tensors.items()}
        size = file_bytes(tensors, header.metadata)
        check_free_space(target, size)
        with tqdm(
            total=size, unit="B", unit_scale=True, desc="converting", disable=None if progress else True, leave=False
        ) as bar:
            with atomic_write(target) as temporary:
                write_tensors(temporary, tensors, header.metadata, bar.update)


def _check_target(source: Path, target: Path, in_place: bool, force: bool) -> None:
    remove_leftovers(target.parent)
    if not target.exists():
        return
    if target.samefile(source):
        if not in_place:
            raise InputError(f"{target}: is IN itself; give another OUT, or --in_place to replace it")
    elif not force:
        raise InputError(f"{target}: exists; give another OUT, or --force to replace it")


def _planned(reader: TensorReader, name: str, stored: Stored, projections: str, dtype: torch.dtype | None) -> Written:
    shape = _shape(stored.shape, projections) if is_projection(name) else stored.shape
    chosen = dtype if dtype and stored.is_float else DTYPES[stored.dtype]
    return Written(NAMES[chosen], shape, partial(_pieces, reader, name, stored, chosen))


def _shape(shape: tuple[int, ...], projections: str) -> tuple[int, ...]:
    """The shape of a projection's weight, with or without two dimensions of size 1 at the end."""
    if projections == "conv" and len(shape) == 2:
        return (*shape, 1, 1)
    if projections == "linear" and len(shape) == 4 and shape[2:] == (1, 1):
        return shape[:2]
    return shape


def _pieces(reader: TensorReader, name: str, stored: Stored, dtype: torch.dtype) -> Iterator[Tensor]:
    before = DTYPES[stored.dtype]
    step = PIECE * before.itemsize
    for start in range(0, stored.bytes, step):
        piece = reader.read_bytes(name, start, min(step, stored.bytes - start)).view(before)
        if before == dtype:
            yield piece
        else:
            converted = piece.to(dtype)
            _check_range(reader.header, name, piece, converted)
            yield converted


def _check_range(header: Header, name: str, before: Tensor, after: Tensor) -> None:
    """Refuses a conversion that makes a finite number infinite; infinity and NaN in the source pass."""
    if not after.numel() or torch.finfo(after.dtype).max >= torch.finfo(before.dtype).max:
        return
    low, high = after.aminmax()
    if not (low.isfinite() and high.isfinite()) and bool((after.isfinite() != before.isfinite()).any()):
        dtype = str(after.dtype).removeprefix("torch.")
        raise CheckpointError(f"{header.path}: {name}: holds values that {dtype} cannot; take a wider --dtype")


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0, 2 after one line that says what the user can mend, 130 after Ctrl-C."""
    return run(_convert, _parse, arguments)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m sdxl.convert", description=__doc__)
    parser.add_argument("input", type=Path, metavar="IN", help="a .safetensors file")
    parser.add_argument("output", type=Path, metavar="OUT", nargs="?", help="the file to write")
    parser.add_argument(
        "--projections",
        default="conv",
        choices=PROJECTIONS,
        help="proj_in, proj_out of the transformers (default: conv)",
    )
    add_dtype(parser, default="fp32")
    parser.add_argument("--in_place", "--in-place", action="store_true", help="replace IN")
    parser.add_argument("--force", action="store_true", help="overwrite OUT")
    add_json(parser)
    options = parser.parse_args(arguments)
    if options.in_place:
        if options.output not in (None, options.input):
            raise InputError(f"--in_place replaces {options.input}: leave OUT {options.output} away")
        options.output = options.input
    if options.output is None:
        raise InputError("OUT is missing: give the file to write, or --in_place")
    return options


def _convert(options: argparse.Namespace) -> None:
    convert(
        options.input,
        options.output,
        projections=options.projections,
        dtype=chosen_dtype(options.dtype),
        in_place=options.in_place,
        force=options.force,
    )
    size, said = options.output.stat().st_size, (options.dtype, options.projections)
    facts = {"output": str(options.output), "bytes": size, "dtype": said[0], "projections": said[1]}
    tell(facts, f"{options.output}: {size / 1e9:.2f} GB, {', '.join(said)}", options.json)


if __name__ == "__main__":
    sys.exit(main())
