"""Writes the picture that settings ask for: reads the files first, then the weights, then runs the edit."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from sdxl.commands.inputs import load_inputs
from sdxl.commands.requests import make_request
from sdxl.commands.rules import flag, merging_of
from sdxl.commands.sessions import edit_in_session, session_picture
from sdxl.commands.settings import Settings
from sdxl.commands.weights import choose_weights, place
from sdxl.errors import InputError
from sdxl.pictures.images import size_of, size_text
from sdxl.pictures.png import check_png_output, save_png
from sdxl.pipelines.find import Weights
from sige.dtypes import named_dtype

if TYPE_CHECKING:
    from sdxl.edits.request import Request
    from sdxl.edits.result import Result

__all__ = ["run"]

TURBO_SIDE = 512  # pixels: the size that turbo was distilled at


def run(settings: Settings) -> str:
    """Writes the picture, and returns a line that says what was written and how long it took.

    Whatever can be refused without weights is refused before they are read.
    """
    output = settings.output_path
    assert output is not None  # Settings checks this
    check_png_output(output)
    _check_extras(settings)
    image = None if settings.session is None else session_picture(settings)
    request = make_request(settings, load_inputs(settings, image))
    if request.is_empty:
        assert request.image is not None
        save_png(request.image, output, settings.to_dict())
        return f"wrote {output}: the mask is empty, so this is the picture as it was"
    chosen = choose_weights(settings)
    _check_level(settings, chosen.base)
    settings = place(chosen.settings)
    began = perf_counter()
    pipe = _load(settings, chosen.base, settings.task)
    refiner = None
    if chosen.refiner is not None:
        task = "img2img" if settings.task == "text2img" else settings.task
        refiner = _load(replace(settings, lora=(), textual_inversion=()), chosen.refiner, task)
    loaded = perf_counter()
    if settings.session is not None:
        result = edit_in_session(pipe, request, settings)
    else:
        from sdxl.edits.run import run as run_request

        result = run_request(pipe, _sized(request, settings, pipe), refiner=refiner)
    save_png(result.image, output, settings.to_dict())
    return f"wrote {output}: {_summary(result, settings)}; loaded in {loaded - began:.1f} s"


def _check_extras(settings: Settings) -> None:
    for name in ("lora", "textual_inversion"):
        for file in getattr(settings, name):
            if not Path(file).exists():
                raise InputError(f"{flag(name)}: {file} does not exist")


def _check_level(settings: Settings, weights: Weights) -> None:
    """Refuses to merge tokens at the finest level alone where the model has no attention there."""
    if settings.tome_max_downsample == 1 and not weights.kind.startswith("sd15"):
        raise InputError(
            f"tome_max_downsample: got 1, but {weights.kind} has no attention at that level, so nothing would merge: "
            "take 2 or 4, or leave it out",
            "tome_max_downsample",
        )


def _load(settings: Settings, weights: Weights, task: str) -> Any:
    from sdxl.pipelines import load

    pipe = load.load_weights(
        weights,
        task=task,
        config_path=settings.config_path,
        device=settings.device,
        dtype=named_dtype(settings.dtype),
        scheduler=settings.scheduler,
        lora=settings.lora,
        textual_inversion=settings.textual_inversion,
    )
    _merge_tokens(pipe, settings)
    return pipe


def _merge_tokens(pipe: Any, settings: Settings) -> None:
    """Makes the pipeline's dense passes merge rows, where the settings say so."""
    merging = merging_of(settings)
    if merging is None:
        return
    from sige import tome

    tome.apply(pipe, **asdict(merging))


def _sized(request: Request, settings: Settings, pipe: Any) -> Request:
    """The request; for text2img without a size, a copy with the settings' sides or with the model's own."""
    if request.task != "text2img" or request.size is not None:
        return request
    side = int(pipe.unet.config.sample_size) * 8
    side = min(side, TURBO_SIDE) if settings.turbo else side
    return replace(request, size=(settings.height or side, settings.width or side))


def _summary(result: Result, settings: Settings) -> str:
    steps = result.steps
    taken = f"{steps[0]} steps" + "".join(f" and {count} of the refiner" for count in steps[1:])
    facts = f"{size_text(size_of(result.image))}, seed {settings.seed}, {taken} at scale {settings.scale:g}"
    facts += f" in {result.seconds:.1f} s ({sum(steps) / result.seconds:.2f} steps/s, VAE included)"
    if settings.tome_ratio:
        facts += f", tokens merged at ratio {settings.tome_ratio:g}"
    passes = result.passes["unet"]
    if passes.dense == passes.calls:
        return facts
    return f"{facts}, {passes.describe()}, about {result.computed:.0%} of the dense work"
