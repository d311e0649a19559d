"""`python tools/embed.py IN [--kind base|inpaint|turbo|refiner]`: puts a trained one into assets/embedded, in fp16.

IN is the single file that train.py wrote, with its tokenizers beside it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from sdxl.checkpoint.embedded import EMBEDDED, FILES
from sdxl.checkpoint.load import Parts, load
from sdxl.commands.export import save_single_file
from sdxl.commands.parser import Parser, run
from sdxl.errors import CheckpointError, InputError

KINDS = {"base": "sdxl-base", "inpaint": "sdxl-inpaint", "turbo": "sdxl-turbo", "refiner": "sdxl-refiner"}
LIMIT = 40_000_000  # bytes of the folder: it is in the repository and in every installation
WORDS = ("vocab.json", "merges.txt", "tokenizer_config.json")
FOLDER = Path(__file__).resolve().parent.parent / "assets" / EMBEDDED


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status: 0, or 2 after one line that says what the user can mend."""
    return run(_embed, _parse, arguments)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python tools/embed.py", description=__doc__)
    parser.add_argument("input", type=Path, metavar="IN", help="a .safetensors file of the variant embedded")
    parser.add_argument("--kind", choices=KINDS, help="refuse another kind than this (default: the kind of IN)")
    parser.add_argument("--out", type=Path, default=FOLDER, metavar="FOLDER", help="default: assets/embedded")
    return parser.parse_args(arguments)


def _embed(options: argparse.Namespace) -> None:
    parts = load(options.input, dtype=torch.float16, progress=False)
    _check(parts, options.kind)
    options.out.mkdir(parents=True, exist_ok=True)
    new = [(options.input.parent / name / file, Path(name) / file) for name in _tokenizers(parts) for file in WORDS]
    path = options.out / FILES[parts.kind]
    _check_words(options.out, path, new)
    _check_size(options.out, path, parts)
    for source, name in new:
        if not _says_the_same(source, options.out / name):
            (options.out / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source, options.out / name)
    save_single_file(parts, path)
    for file in sorted(file for file in options.out.rglob("*") if file.is_file()):
        print(f"{file.stat().st_size:>10,}  {file.relative_to(options.out)}")
    print(f"{_size(options.out):>10,}  in all, of at most {LIMIT:,}")


def _check(parts: Parts, kind: str | None) -> None:
    if parts.variant != EMBEDDED or parts.kind not in FILES:
        raise CheckpointError(
            f"{parts.path} is {parts.kind} of the variant {parts.variant}, expected {' or '.join(FILES)} of the "
            f"variant {EMBEDDED}: train with configs/train/embedded-*.yaml"
        )
    if kind is not None and parts.kind != KINDS[kind]:
        raise InputError(f"{parts.path} is {parts.kind}, expected {KINDS[kind]} as --kind {kind} says")


def _tokenizers(parts: Parts) -> list[str]:
    return [name for name in ("tokenizer", "tokenizer_2") if getattr(parts, name) is not None]


def _check_words(folder: Path, path: Path, new: Sequence[tuple[Path, Path]]) -> None:
    """Refuses other tokenizers than those in the folder, which base and inpainting share."""
    others = [name for name in FILES.values() if name != path.name and (folder / name).is_file()]
    for source, name in new:
        there = folder / name
        if others and there.is_file() and not _says_the_same(source, there):
            raise CheckpointError(f"{source} differs from {there}, which {others[0]} needs: train one from the other")


def _says_the_same(one: Path, other: Path) -> bool:
    """Says whether both files hold the same words; versions of transformers write other spaces and settings."""
    if not other.is_file():
        return False
    texts = [path.read_text(encoding="utf-8") for path in (one, other)]
    if one.suffix != ".json":
        return texts[0].split() == texts[1].split()
    first, second = map(json.loads, texts)
    if one.name == "tokenizer_config.json":
        return all(first[key] == second[key] for key in first.keys() & second.keys())
    return bool(first == second)


def _check_size(folder: Path, path: Path, parts: Parts) -> None:
    """Refuses weights that make the folder too large: two bytes per number, and the headers and words."""
    weights = sum(tensor.numel() * 2 for model in parts.models().values() for tensor in model.state_dict().values())
    rest = _size(folder) - (path.stat().st_size if path.is_file() else 0)
    if weights + rest > LIMIT:
        raise CheckpointError(
            f"{folder} would have {weights + rest:,} bytes, of at most {LIMIT:,}: make configs/embedded.yaml smaller"
        )


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


if __name__ == "__main__":
    sys.exit(main())
