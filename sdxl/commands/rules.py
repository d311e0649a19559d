"""The rules for settings: a value that does not exist, is missing or has no effect is refused by name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import NoReturn

from sdxl.checkpoint.embedded import EMBEDDED
from sdxl.commands.fields import Fields
from sdxl.edits.request import KEEPS
from sdxl.edits.sampling import REFINER_STRENGTH, STRENGTH
from sdxl.errors import InputError
from sdxl.pipelines.find import MODELS, TINY
from sdxl.pipelines.memory import ATTENTIONS, OFFLOADS
from sdxl.pipelines.schedulers import SCHEDULERS, default_scheduler
from sige import policies
from sige.dtypes import DTYPE_NAMES
from sige.errors import ConfigError
from sige.merging.settings import Merging
from sige.sizes import parse_bytes

__all__ = ["NAMES", "check", "flag", "in_flags", "merging_of", "nearest", "unknown"]

# Every module that these names come from can be imported without torch, so that a mistake is found in a moment.
NAMES: dict[str, tuple[str, ...]] = {
    "task": ("inpainting", "sdedit", "text2img", "img2img"),
    "mode": ("generate", "profile_unet", "profile_encoder", "profile_decoder"),
    "run_type": ("original", "sige", "turbo", "sige-turbo"),
    "model": ("auto", *MODELS, EMBEDDED, TINY),
    "scheduler": tuple(SCHEDULERS),
    "policy": tuple(policies.POLICIES),
    "preset": tuple(policies.PRESETS),
    "schedule": tuple(policies.SCHEDULES),
    "forecast": tuple(policies.FORECASTS),
    "keep": KEEPS,
    "dtype": ("auto", *DTYPE_NAMES),
    "attention": ATTENTIONS,
    "offload": OFFLOADS,
}
RENAMED = {  # settings, and fields of a request, whose flag has another name
    "height": "--H",
    "width": "--W",
    "size": "--H and --W",
    "steps": "--ddim_steps",
    "eta": "--ddim_eta",
    "image": "--init_img",
    "edited": "--edited_img",
    "mask": "--mask_path",
    "refiner": "--refined",
    "control": "--control_image",
}

PICTURES = {  # name -> the tasks that read it
    "init_img": ("inpainting", "sdedit", "img2img"),
    "mask_path": ("inpainting",),
    "edited_img": ("sdedit",),
    "keep": ("sdedit",),
    "strength": ("inpainting", "sdedit", "img2img"),
}
NEEDED = {
    "inpainting": ("init_img", "mask_path"),
    "sdedit": ("edited_img",),
    "img2img": ("init_img",),
    "text2img": (),
}
TEMPORAL = ("preset", "dense_steps", "skipped_steps", "half_steps", "outer_steps", "schedule", "forecast")
POLICY = ("policy", *TEMPORAL, "dilation")
SESSION = ("undo", "budget")
TOME = "tome_"  # what the settings of token merging begin with
PROFILE = ("macs_only", "runs")
SECOND_ENCODER = ("prompt_2", "negative_prompt_2")
SIZES = ("original_size", "target_size", "negative_original_size", "negative_target_size")
CROPS = ("crops_coords_top_left", "negative_crops_coords_top_left")
NEGATIVE = ("negative_prompt", "negative_prompt_2", "negative_original_size", "negative_target_size", CROPS[1])
MOST_TOLD = 10**6  # pixels, for a side of a picture or of a corner that SDXL is told


def flag(name: str) -> str:
    """The flag of a setting, as the user writes it."""
    return RENAMED.get(name, f"--{name}")


def in_flags(error: Exception) -> str:
    """The error's message; where it begins with the name of a field, with that field's flag instead.

    >>> in_flags(InputError("steps: got 0, expected at least 1", "steps"))
    '--ddim_steps: got 0, expected at least 1'
    """
    message, name = str(error), getattr(error, "field", None)
    return flag(name) + message.removeprefix(name) if name and message.startswith(name) else message


def unknown(what: str, got: str, known: Iterable[str]) -> str:
    """The sentence for a name that does not exist, with the nearest that does."""
    known = tuple(known)
    near = nearest(got, known)
    guess = f"; did you mean {near}?" if near else ""
    return f"{what}: got {got!r}, expected one of {', '.join(known)}{guess}"


def nearest(got: str, known: Iterable[str]) -> str | None:
    """The known name that is most like the given one; None where none is close."""
    near = get_close_matches(got, tuple(known), n=1, cutoff=0.5)
    return near[0] if near else None


def check(settings: Fields) -> None:
    """Raises `InputError` for the first rule that is broken."""
    _check_names(settings)
    _check_numbers(settings)
    if not settings.generates:
        return  # a profile reads few settings, and accepts the whole command of an edit
    _check_task(settings)
    _check_weights(settings)
    _check_sampling(settings)
    _check_policy(settings)
    _check_merging(settings)
    _check_session(settings)


def merging_of(settings: Fields) -> Merging | None:
    """The token merging that the settings ask for; what they leave out is its default, at the finest level possible."""
    given = {name.removeprefix(TOME): value for name, value in vars(settings).items() if name.startswith(TOME)}
    if settings.tome_ratio is None:
        return None
    return Merging(**{"max_downsample": None} | {name: value for name, value in given.items() if value is not None})


def _refuse(name: str, sentence: str) -> NoReturn:
    raise InputError(f"{flag(name)}{sentence}")


def _refuse_all(settings: Fields, names: Iterable[str], why: str) -> None:
    for name in names:
        if _is_given(getattr(settings, name)):
            _refuse(name, f" {why}")


def _is_given(value: object) -> bool:
    """Says whether the user has set the value: 0 and "none" count as set; None, False, () and "" do not."""
    return value is not None and value is not False and value != () and value != ""


# ---- each value by itself --------------------------------------------------------------------------------------------


def _check_names(settings: Fields) -> None:
    for name, known in NAMES.items():
        got = getattr(settings, name)
        if got is not None and got not in known:
            raise InputError(unknown(flag(name), got, known))
    kind, _, number = settings.device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (number and (kind != "cuda" or not re.fullmatch(r"\d{1,3}", number))):
        _refuse("device", f": got {settings.device!r}, expected auto, cpu, cuda or cuda:1")


def _check_numbers(settings: Fields) -> None:
    for name, least, most in (
        ("steps", 1, 1000),
        ("height", 8, 16384),
        ("width", 8, 16384),
        ("scale", 0, 1000),
        ("eta", 0, 1),
        ("seed", 0, 2**63 - 1),
        ("dilation", 0, 1024),
        ("runs", 1, 10**6),
    ):
        value = getattr(settings, name)
        if value is not None and not least <= value <= most:  # false for NaN, too
            _refuse(name, f": got {value}, expected a number from {least} to {most}")
    if settings.strength is not None and not 0 < settings.strength <= 1:
        _refuse("strength", f": got {settings.strength}, expected a number above 0, up to 1")
    if settings.denoising_split is not None and not 0 < settings.denoising_split < 1:
        _refuse("denoising_split", f": got {settings.denoising_split}, expected a number between 0 and 1, such as 0.8")
    for name, least in (*((name, 1) for name in SIZES), *((name, 0) for name in CROPS)):
        value = getattr(settings, name)
        if value is not None and min(value) < least:
            _refuse(name, f": got {value[0]} and {value[1]}, expected two numbers of at least {least}")
        if value is not None and max(value) > MOST_TOLD:
            _refuse(name, f": got {value[0]} and {value[1]}, expected two numbers up to {MOST_TOLD}")


# ---- which go together -----------------------------------------------------------------------------------------------


def _check_task(settings: Fields) -> None:
    task = settings.task
    if settings.sparse and task in ("text2img", "img2img"):
        other = "sdedit" if task == "img2img" else "inpainting"
        _refuse(
            "run_type",
            f" {settings.run_type} has nothing to reuse with --task {task}, where everything is new: take "
            f"--run_type {settings.run_type.replace('sige-', '').replace('sige', 'original')}, or --task {other}",
        )
    for name, tasks in PICTURES.items():
        if getattr(settings, name) is not None and task not in tasks:
            _refuse(name, f" has no effect with --task {task}, only with {' and '.join(tasks)}: leave it out")
    for name in NEEDED[task]:
        if getattr(settings, name) is None and not (name == "init_img" and settings.session is not None):
            _refuse(name, f" is missing: --task {task} needs it")
    if settings.sparse and task == "sdedit" and settings.init_img is None:
        _refuse("init_img", " is missing: a sparse sdedit recomputes where --edited_img differs from it")
    if settings.keep == "outside" and settings.init_img is None:
        _refuse("init_img", " is missing: --keep outside takes from it what --edited_img has not changed")
    if settings.prompt is None:
        _refuse("prompt", ' is missing: say what the picture shows, or --prompt "" for nothing')
    if settings.output_path is None:
        _refuse("output_path", " is missing: name the PNG to write")
    if task == "text2img" and any(side is not None and side % 8 for side in (settings.height, settings.width)):
        raise InputError("--H and --W: expected multiples of 8 for a picture from text alone: round them")
    _refuse_all(settings, PROFILE, "has no effect with --mode generate, only with a profile: leave it out")


def _check_weights(settings: Fields) -> None:
    model = settings.model
    if settings.refined and settings.turbo:
        _refuse("refined", " does not go with turbo, whose few steps leave nothing to refine: leave one of the two out")
    if settings.refined and settings.denoising_split is None and int(REFINER_STRENGTH * settings.steps) < 1:
        _refuse(
            "refined",
            f" takes {REFINER_STRENGTH:.0%} of --ddim_steps {settings.steps}, which leaves no step: take more",
        )
    if settings.denoising_split is not None and not settings.refined:
        _refuse("denoising_split", " has no effect without the refiner: add --refined True")
    if model in ("sdxl-inpaint", "sd15") and settings.turbo:
        _refuse("run_type", f" {settings.run_type} has weights of its own: leave out --model {model}")
    if model == "sdxl-inpaint" and settings.task != "inpainting":
        _refuse("model", f" sdxl-inpaint can only inpaint: take --model sdxl for --task {settings.task}")
    if model == "sd15":
        if settings.refined:
            _refuse("refined", " does not go with --model sd15: the refiner is one of SDXL")
        why = "has no effect with --model sd15, which has one text encoder and no size conditioning: leave it out"
        _refuse_all(settings, (*SECOND_ENCODER, *SIZES, *CROPS), why)


def _check_sampling(settings: Fields) -> None:
    scheduler = settings.scheduler or default_scheduler("sdxl-turbo" if settings.turbo else "sdxl-base")
    if settings.eta > 0 and scheduler != "ddim":
        _refuse("eta", f" has no effect with --scheduler {scheduler}: take ddim, or leave it out")
    strength = settings.strength or STRENGTH.get(settings.task, 1.0)
    if int(strength * settings.steps) < 1:
        _refuse("strength", f" {strength:g} of --ddim_steps {settings.steps} leaves no step: raise one of the two")
    if settings.scale <= 1:
        why = (
            f"has no effect at --scale {settings.scale:g}, which is no guidance: take a scale above 1, or leave it out"
        )
        _refuse_all(settings, NEGATIVE, why)


def _check_policy(settings: Fields) -> None:
    if not settings.sparse:
        why = f"has no effect with --run_type {settings.run_type}, which recomputes everything: leave it out"
        _refuse_all(settings, POLICY, why)
    if settings.policy == "lockstep":
        _refuse_all(settings, TEMPORAL, "has no effect with --policy lockstep, where every step is dense too")
        return
    if isinstance(settings.dense_steps, tuple) and settings.schedule is not None:
        _refuse("schedule", " has no effect beside a list of --dense_steps, which is a schedule: leave it out")
    _check_dense_steps(settings.dense_steps, settings.steps)
    for field in ("skipped_steps", "half_steps", "outer_steps"):
        steps = getattr(settings, field)
        if steps and (list(steps) != sorted(set(steps)) or steps[-1] >= settings.steps):
            listed = ",".join(map(str, steps))
            _refuse(field, f": got {listed}, expected steps in order, below --ddim_steps, {settings.steps}")


def _check_merging(settings: Fields) -> None:
    if not settings.tome_ratio:
        why = "without --tome_ratio: name a ratio, such as 0.5" if settings.tome_ratio is None else "at --tome_ratio 0"
        for name, value in vars(settings).items():
            if name.startswith(TOME) and name != "tome_ratio" and value is not None:
                _refuse(name, f" has no effect {why}, or leave it out")
    try:
        merging_of(settings)
    except ConfigError as error:
        name, _, sentence = str(error).partition(":")
        _refuse(TOME + name, f":{sentence}")


def _check_session(settings: Fields) -> None:
    if settings.session is None:
        _refuse_all(settings, SESSION, "has no effect without --session: name the session's folder")
        return
    if not settings.sparse or settings.task != "inpainting":
        _refuse("session", " is for sparse inpainting: add --run_type sige, and leave --task out")
    if settings.refined:
        _refuse("refined", " does not go with --session: a refiner would see pictures that the session does not keep")
    if settings.policy == "lockstep":
        _refuse("policy", " lockstep does not go with --session, whose recordings are the edit's own: leave it out")
    if settings.dilation is not None:
        _refuse("dilation", " does not go with --session, which widens each edit by itself: leave it out")
    if settings.budget is not None:
        try:
            parse_bytes(settings.budget)
        except ConfigError as error:
            raise InputError(str(error), "budget") from error


def _check_dense_steps(dense: int | tuple[int, ...] | None, steps: int) -> None:
    if isinstance(dense, int) and not 1 <= dense <= steps:
        _refuse("dense_steps", f": got {dense}, expected a number from 1 to --ddim_steps, {steps}")
    if isinstance(dense, tuple) and (dense[:1] != (0,) or list(dense) != sorted(set(dense)) or dense[-1] >= steps):
        listed = ",".join(map(str, dense))
        _refuse("dense_steps", f": got {listed}, expected steps from 0 on, in order, below --ddim_steps, {steps}")
