"""The flags of commands that load a model once and make many pictures: the server, and the batch."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdxl.commands.fields import Fields
from sdxl.commands.parser import Parser
from sdxl.errors import InputError
from sige.policies import PRESETS

if TYPE_CHECKING:
    from sdxl.edits.asked import Defaults

__all__ = ["add_defaults", "add_weights", "check_names", "defaults_of", "weight_fields"]

WEIGHTS = ("model", "weight_path", "vae", "scheduler", "device", "dtype", "attention", "offload")


def add_weights(parser: Parser, workers: str) -> None:
    """Adds the flags for weights and devices; `workers` is the help of --workers."""
    add = parser.add_argument_group("weights and machine").add_argument
    add("--model", default="auto", help="sdxl, sdxl-inpaint, sd15, embedded, tiny, auto (default)")
    add(
        "--weight_path",
        "--weight-path",
        type=Path,
        default=Path("pretrained"),
        help="a file or a folder (default: pretrained)",
    )
    add("--lora", nargs="+", default=[], metavar="FILE[:X]", help="LoRA weights")
    add("--vae", type=Path, metavar="FILE", help="another VAE")
    add("--scheduler", help="default: ddim")
    add("--device", default="auto", help="cpu, cuda, cuda:1, auto (default)")
    add("--dtype", default="auto", help="fp32, fp16, bf16, auto (default)")
    add("--attention", default="auto", help="of dense passes: auto (default), sdpa, math, sliced")
    add("--offload", default="none", help="model: each model waits on the CPU for its turn; none (default)")
    add("--workers", type=int, default=None, help=workers)


def add_defaults(parser: Parser, title: str) -> None:
    """Adds the flags for what holds where nothing is said of an edit."""
    add = parser.add_argument_group(title).add_argument
    add("--steps", type=int, help="denoising steps (default: 30)")
    add("--scale", type=float, help="guidance by the prompt (default: 7.5; embedded: 4)")
    add("--preset", default="balanced", choices=tuple(PRESETS), help="how much is computed (default: balanced)")


def check_names(given: Namespace) -> None:
    """Refuses a name that does not exist, before anything is loaded."""
    from sdxl.commands.rules import NAMES, unknown

    for name in ("model", "scheduler", "dtype", "attention", "offload"):
        value = getattr(given, name)
        if value is not None and value not in NAMES[name]:
            raise InputError(unknown(f"--{name}", value, NAMES[name]))


def weight_fields(given: Namespace, task: str) -> Fields:
    """The fields that decide which weights are loaded for a task, and where."""
    said: dict[str, Any] = {name: getattr(given, name) for name in WEIGHTS}
    return Fields(task=task, lora=tuple(given.lora), **said)


def defaults_of(given: Namespace, model: str) -> Defaults:
    """What holds where nothing is said; the embedded model was trained for less guidance."""
    from sdxl.edits.asked import Defaults

    scale = given.scale if given.scale is not None else 4.0 if model == "embedded" else 7.5
    return Defaults(30 if given.steps is None else given.steps, scale, given.preset)
