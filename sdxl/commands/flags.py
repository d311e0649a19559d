"""The flags, their help, and how their words become settings."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from sdxl.commands import rules
from sdxl.commands.fields import STEPS, TURBO_STEPS
from sdxl.commands.preset_file import is_preset_file, preset_words
from sdxl.commands.repeat import repeated
from sdxl.commands.settings import Settings
from sdxl.errors import InputError
from sdxl.sessions.budget import BUDGET

__all__ = ["parse"]

EXAMPLES = """\
examples:
  python run.py --prompt "a horse" --init_img photo.png --mask_path mask.png --run_type sige --output_path horse.png
  python run.py --task sdedit --prompt "a castle" --init_img photo.png --edited_img sketch.png --run_type sige-turbo \\
                --output_path castle.png
  python run.py --prompt "a barn" --session desk --mask_path next.png --run_type sige --output_path barn.png
  python run.py --from_png horse.png --seed 7 --output_path horse7.png
  python run.py --mode profile_unet --init_img photo.png --mask_path mask.png --macs_only
"""


def parse(arguments: Sequence[str]) -> Settings:
    """The settings of a command line; those that `--from_png` reads apply where no flag overrides them."""
    parser = _parser()
    said = _said(parser, arguments)
    named = said.pop("preset", [])
    names = [name for name in named if not is_preset_file(name)]
    for file in (Path(name) for name in reversed(named) if is_preset_file(name)):
        said = _from_file(parser, file) | said
    said |= {"preset": names[-1]} if names else {}
    source, trusted = said.pop("from_png", None), said.pop("trust_png", False)
    if source is None and trusted:
        raise InputError("--trust_png has no effect without --from_png: name the picture")
    return Settings.from_dict(said if source is None else repeated(source, said, trusted))


def _said(parser: _Parser, words: Sequence[str]) -> dict[str, Any]:
    """What the words say, by the names of the settings."""
    given, rest = parser.parse_known_args([_underscored(word) for word in words])
    if rest:
        raise InputError(_unknown_flag(rest[0], [f"--{name}" for name in _flags(parser)]))
    return vars(given)


def _flags(parser: _Parser) -> dict[str, argparse.Action]:
    """The parser's actions by the names of their flags."""
    named = [(option, action) for action in parser._actions for option in action.option_strings]
    return {option[2:]: action for option, action in named if option.startswith("--")}


def _from_file(parser: _Parser, file: Path) -> dict[str, Any]:
    """What a preset file says; its mistakes name the file."""
    flags = _flags(parser)
    repeated = [name for name, action in flags.items() if action.nargs == "+" and not isinstance(action, _Pair)]
    words = preset_words(file, flags, repeated)
    try:
        said = _said(parser, words)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    return said | ({"preset": said["preset"][-1]} if "preset" in said else {})


def _underscored(word: str) -> str:
    """The word with underscores in the name of a flag: --init-img becomes --init_img."""
    name, equals, value = word.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value if re.fullmatch(r"--[A-Za-z][\w-]*", name) else word


def _unknown_flag(word: str, known: list[str]) -> str:
    name = word.partition("=")[0]
    if not name.startswith("-"):
        return f"got {word!r}, which follows no flag: put quotes around a value of several words"
    near = rules.nearest(name, known)
    return f"{name}: no such flag; {f'did you mean {near}?' if near else 'see --help'}"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(message.removeprefix("argument "))


def _parser() -> _Parser:
    """The parser. A flag that is left out gives no value, so that defaults live in the settings alone."""
    parser = _Parser(
        description="Edits a picture locally with SDXL; with --run_type sige only what the edit touches is recomputed.",
        epilog=EXAMPLES,
        usage="%(prog)s [flags]",
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, width=118, max_help_position=32),
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    for add in (
        _add_task,
        _add_pictures,
        _add_prompts,
        _add_sampling,
        _add_sparse,
        _add_merging,
        _add_session,
        _add_weights,
        _add_sizes,
    ):
        add(parser)
    _add_profile(parser)
    return parser


# ---- words to values -------------------------------------------------------------------------------------------------


def _switch(text: str) -> dict[str, Any]:
    return {"type": _truth, "nargs": "?", "const": True, "metavar": "True", "help": text}


def _truth(text: str) -> bool:
    word = text.strip().lower()
    if word in ("true", "t", "yes", "y", "on", "1"):
        return True
    if word in ("false", "f", "no", "n", "off", "0", "none"):
        return False
    raise argparse.ArgumentTypeError(f"got {text!r}, expected True or False")


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number") from None


def _dense_steps(text: str) -> int | list[int]:
    parts = [part.strip() for part in text.strip(" ,").split(",")]
    if not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected how many steps, or which, as 0,2,5,9")
    return [int(part) for part in parts] if "," in text else int(parts[0])


def _steps(text: str) -> list[int]:
    parts = [part.strip() for part in text.strip(" ,").split(",")]
    if not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected step numbers, as 6,8,11")
    return [int(part) for part in parts]


class _Pair(argparse.Action):
    """Two numbers, as 512x1024, 512,1024 or 512 1024."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: str | None = None) -> None:
        parts = [part for part in re.split(r"[x×,\s]+", " ".join(values).lower().strip("()[] ")) if part]
        if len(parts) != 2 or not all(re.fullmatch(r"-?\d{1,18}", part) for part in parts):
            raise argparse.ArgumentError(self, f"got {' '.join(values)!r}, expected two whole numbers, as 512x1024")
        setattr(namespace, self.dest, [int(part) for part in parts])


WHOLE: dict[str, Any] = {"type": _whole, "metavar": "N"}
PIXELS: dict[str, Any] = {"type": _whole, "metavar": "PIXELS"}
NUMBER: dict[str, Any] = {"type": _number, "metavar": "X"}
TEXT: dict[str, Any] = {"metavar": "TEXT"}
FILE: dict[str, Any] = {"type": Path, "metavar": "FILE"}
FOLDER: dict[str, Any] = {"type": Path, "metavar": "FOLDER"}
FILES: dict[str, Any] = {"nargs": "+", "action": "extend", "metavar": "FILE"}
FILES_WITH_STRENGTH: dict[str, Any] = FILES | {"metavar": "FILE[:X]"}
PAIR: dict[str, Any] = {"nargs": "+", "action": _Pair}


# ---- the flags -------------------------------------------------------------------------------------------------------


def _add_task(parser: _Parser) -> None:
    add = parser.add_argument_group("what to do").add_argument
    add("--task", help="inpainting (default), sdedit, text2img, img2img")
    add("--run_type", help="original (default), sige (recompute the edit only), turbo, sige-turbo")
    add("--mode", help="generate (default), profile_unet, profile_encoder, profile_decoder")
    add("--refined", **_switch("the refiner after the base; not with turbo"))
    add("--from_png", **FILE, help="repeat the edit that wrote FILE; other flags override it")
    add("--trust_png", **_switch("with --from_png: also load the weights and the LoRA files that FILE names"))


def _add_pictures(parser: _Parser) -> None:
    add = parser.add_argument_group("pictures").add_argument
    add("--init_img", **FILE, help="the picture before the edit: PNG, JPEG, WebP")
    add("--mask_path", **FILE, help="inpainting: .npy or picture, as large; white is repainted")
    add("--edited_img", **FILE, help="sdedit: the picture with the rough edit in it")
    add(
        "--keep",
        help="sdedit: outside (default if sparse): what was not painted over stays; nothing: all may change",
    )
    add("--output_path", type=Path, metavar="FILE.png", help="where to write; the PNG carries its settings")
    add("--json", **FILE, help="write the figures too: seconds, steps, passes; of a profile all of them")
    add("--H", dest="height", **WHOLE, help="height in pixels (default: the picture's own)")
    add("--W", dest="width", **WHOLE, help="width in pixels (default: the picture's own)")
    add("--grow", **PIXELS, help="inpainting: the mask grows by so many pixels to every side (default: 0)")
    add("--mask_blur", **PIXELS, help="inpainting: its edge turns soft over so many pixels, inwards (default: 0)")
    text = "inpainting: what is painted meets the picture at the mask's edge; fades inwards over so many (default: 0)"
    add("--match_edge", **PIXELS, help=text)
    text = "inpainting: paint only the mask and so many pixels around it, at the model's size or --H and --W, for "
    text += "pictures larger than the model likes"
    add("--only_masked", **PIXELS, help=text)
    add("--n", **WHOLE, help="how many pictures, with consecutive seeds: NAME-1.png, NAME-2.png, ... (default: 1)")


def _add_prompts(parser: _Parser) -> None:
    add = parser.add_argument_group("prompts", r"a backslash makes a bracket text: \(red\)").add_argument
    add(
        "--prompt",
        **TEXT,
        help="what the picture shows, short or long; (word:1.3) weighs, (word) 1.1, [word] 1/1.1",
    )
    add("--negative_prompt", **TEXT, help="what it does not show; needs a --scale above 1")
    add("--prompt_2", **TEXT, help="for the second text encoder (default: --prompt)")
    add("--negative_prompt_2", **TEXT, help="for the second text encoder (default: --negative_prompt)")
    add("--clip_skip", **WHOLE, help="how many of the text encoders' last layers the prompt leaves out (default: none)")


def _add_sampling(parser: _Parser) -> None:
    add = parser.add_argument_group("sampling").add_argument
    add("--ddim_steps", dest="steps", **WHOLE, help=f"denoising steps (default: {STEPS}, turbo {TURBO_STEPS})")
    add("--scale", **NUMBER, help="guidance by the prompt; up to 1 is none (default: 7.5, turbo 0)")
    add("--ddim_eta", dest="eta", **NUMBER, help="noise of each step, 0 to 1, with ddim only (default: 0)")
    add("--strength", **NUMBER, help="share of the steps that is taken, to 1 (default: inpainting 1, else 0.8)")
    add("--seed", **WHOLE, help="of the noise; the same seed gives the same picture (default: a new one)")
    add("--scheduler", help=f"{', '.join(rules.NAMES['scheduler'])} (default: ddim; a turbo: its own)")
    add("--denoising_split", **NUMBER, help="share of the steps before the refiner takes over, such as 0.8")


def _add_sparse(parser: _Parser) -> None:
    add = parser.add_argument_group("sparse runs", "for --run_type sige and sige-turbo").add_argument
    add("--policy", help="temporal (default): some steps dense; lockstep: the original beside the edit at every step")
    add(
        "--preset",
        action="append",
        help="balanced (default); quality: more is computed; fast: less; fastest: an experiment; plain: no skips; "
        "FILE.yaml: settings from a file, for any run; other flags override them",
    )
    add("--dense_steps", type=_dense_steps, metavar="D", help="how many, or which as 0,1,4,9 (default: the preset's)")
    add(
        "--skipped_steps",
        type=_steps,
        metavar="STEPS",
        help="which to skip, as 6,8,11 (default: the preset's)",
    )
    add(
        "--half_steps",
        type=_steps,
        metavar="STEPS",
        help="dense ones, dense for the prompt only (default: the preset's)",
    )
    add(
        "--outer_steps",
        type=_steps,
        metavar="STEPS",
        help="dense ones, without the UNet's deepest level: an experiment (default: the preset's)",
    )
    add("--schedule", help="the gaps between dense steps: growing (default), even")
    add("--forecast", help="of what the steps between read: none, linear, quadratic, rising (default)")
    add("--dilation", **WHOLE, help="positions to widen the edit by (default: 0; lockstep and profiles 1)")


def _add_merging(parser: _Parser) -> None:
    text = "in dense passes rows that are alike become one: less work around attention, another picture"
    add = parser.add_argument_group("token merging (ToMe)", text).add_argument
    add("--tome_ratio", **NUMBER, help="share of the rows that merge, 0 to 0.75; 0.5 is usual (default: no merging)")
    add("--tome_max_downsample", **WHOLE, help="coarsest level that merges: 1, 2, 4, 8 (default: the finest possible)")
    add("--tome_sx", **WHOLE, help="columns of a cell, of whose rows one stays (default: 2)")
    add("--tome_sy", **WHOLE, help="rows of a cell (default: 2)")
    add("--tome_use_rand", **_switch("any row of a cell may stay, else the first (default: True)"))
    add("--tome_merge_attn", **_switch("merge around self-attention (default: True)"))
    add("--tome_merge_crossattn", **_switch("merge around attention to the prompt (default: False)"))
    add("--tome_merge_mlp", **_switch("merge around feed-forward layers (default: False)"))


def _add_session(parser: _Parser) -> None:
    text = "edit after edit of one picture with --run_type sige; each result becomes the session's picture"
    add = parser.add_argument_group("sessions", text).add_argument
    add("--session", **FOLDER, help="where the session is kept; a new one begins with --init_img")
    add("--undo", **_switch("take back the last edit first: alone, or before an edit in its place"))
    add("--budget", metavar="SIZE", help=f"the most that its recordings take, as 8GiB (default: {BUDGET})")


def _add_weights(parser: _Parser) -> None:
    add = parser.add_argument_group("weights and machine").add_argument
    text = "sdxl, sdxl-inpaint, sd15, embedded (small, comes with the project), tiny (random weights), auto (default)"
    add("--model", help=text)
    add("--weight_path", **FOLDER, help="where the checkpoints are (default: pretrained)")
    add("--config_path", **FOLDER, help="where the models' shapes are (default: configs)")
    add("--lora", **FILES_WITH_STRENGTH, help="LoRA weights, one or several; FILE:0.8 takes one at 0.8 of its strength")
    add("--textual_inversion", **FILES, help="learned words, one or several")
    add("--vae", type=Path, metavar="FILE", help="another VAE: a .safetensors file or a diffusers folder")
    add("--controlnet", **FOLDER, help="inpainting: a ControlNet in the diffusers layout; it follows --control_image")
    add("--control_image", **FILE, help="what the ControlNet follows, as large as --init_img: edges, depths, poses")
    add("--control_scale", **NUMBER, help="how strongly it follows, above 0 (default: 1)")
    add("--device", help="cpu, cuda, cuda:1, auto (default: cuda where there is one)")
    add("--dtype", help="fp32, fp16, bf16, auto (default: fp32 on the cpu, fp16 on cuda)")
    text = "of dense passes: sdpa (torch's fused), math (softmax written out), sliced (least memory), auto (default)"
    add("--attention", help=text)
    add("--offload", help="model: each model waits on the CPU for its turn, on cuda; none (default)")


def _add_sizes(parser: _Parser) -> None:
    text = "what SDXL is told about the picture that it imitates: 512x1024 is height and width, 0,64 top and left"
    add = parser.add_argument_group("size conditioning", text).add_argument
    for negative in ("", "negative_"):
        add(f"--{negative}original_size", **PAIR, metavar="HxW")
        add(f"--{negative}target_size", **PAIR, metavar="HxW")
        add(f"--{negative}crops_coords_top_left", **PAIR, metavar="TOP,LEFT")


def _add_profile(parser: _Parser) -> None:
    text = "for --mode profile_*: on random weights, with the region of --mask_path, or of --init_img and --edited_img"
    add = parser.add_argument_group("profiles", text).add_argument
    add("--macs_only", **_switch("count only: no weights, no memory, no time"))
    add("--runs", **WHOLE, help="timed runs (default: 5)")
