"""`python -m sdxl.export IN OUT`: a diffusers folder as a single file, or a single file as a diffusers folder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdxl.checkpoint.load import Parts, load
from sdxl.checkpoint.save import save_folder, save_single_file
from sdxl.commands.parser import Parser, add_dtype, add_json, chosen_dtype, run, tell
from sdxl.errors import InputError
from sige.leftovers import remove_leftovers

__all__ = ["main", "save_folder", "save_single_file"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0, or 2 after one line that says what the user can mend."""
    return run(_export, _parse, arguments)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m sdxl.export", description=__doc__)
    parser.add_argument("input", type=Path, metavar="IN", help="a .safetensors file or a diffusers folder")
    parser.add_argument(
        "output", type=Path, metavar="OUT", help="a name with .safetensors: a single file; else a folder"
    )
    add_dtype(parser, default="keep")
    parser.add_argument("--config_path", type=Path, metavar="FOLDER", help="the configs (default: the package's own)")
    parser.add_argument("--force", action="store_true", help="overwrite the file OUT")
    add_json(parser)
    return parser.parse_args(arguments)


def _export(options: argparse.Namespace) -> None:
    remove_leftovers(options.output.parent)
    single = options.output.suffix == ".safetensors"
    if options.output.exists() and not (single and options.force and options.output.is_file()):
        raise InputError(f"{options.output}: exists; take another name{', or add --force' if single else ''}")
    dtype = chosen_dtype(options.dtype)
    parts = load(options.input, config_path=options.config_path, dtype=dtype, tokenizers=not single)
    if single:
        save_single_file(parts, options.output)
    else:
        save_folder(parts, options.output)
    facts = _facts(parts, options.output)
    tell(facts, _as_line(facts), options.json)


def _facts(parts: Parts, output: Path) -> dict[str, Any]:
    """What was written, and where."""
    files = [output] if output.is_file() else sorted(path for path in output.rglob("*") if path.is_file())
    models = parts.models()
    return {
        "output": str(output),
        "layout": "single file" if output.is_file() else "diffusers folder",
        "kind": parts.kind,
        "files": len(files),
        "bytes": sum(path.stat().st_size for path in files),
        "dtype": str(parts.unet.dtype).removeprefix("torch."),
        "parameters": {name: model.num_parameters() for name, model in models.items()},
    }


def _as_line(facts: dict[str, Any]) -> str:
    count = sum(facts["parameters"].values())
    files = "" if facts["files"] == 1 else f" of {facts['files']} files"
    said = f"{facts['kind']}, {facts['layout']}{files}, {facts['bytes'] / 1e9:.2f} GB"
    return f"wrote {facts['output']}: {said}, {count:,} parameters in {facts['dtype']}"


if __name__ == "__main__":
    sys.exit(main())
