"""Writes the pictures that settings ask for: reads the files first, then the weights, then runs the edit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from sdxl.commands.figures import figures, summary, write_figures
from sdxl.commands.inputs import load_inputs
from sdxl.commands.requests import make_request
from sdxl.commands.rules import flag, merging_of
from sdxl.commands.sessions import edit_in_session, session_picture
from sdxl.commands.settings import Settings
from sdxl.commands.weights import choose_weights, place
from sdxl.errors import InputError
from sdxl.pictures.png import check_png_output, save_png
from sdxl.pipelines.find import Weights
from sdxl.pipelines.lora import with_strength
from sige.dtypes import named_dtype
from sige.files import check_output

if TYPE_CHECKING:
    from sdxl.edits.request import Request
    from sdxl.edits.result import Result

__all__ = ["output_files", "run"]

TURBO_SIDE = 512  # pixels: the size that turbo was distilled at


def run(settings: Settings) -> Iterator[str]:
    """Writes the pictures, and yields a line about each, which says what was written and how long it took.

    Whatever can be refused without weights is refused before they are read.
    """
    outputs = output_files(settings)
    for path in outputs:
        check_png_output(path)
    if settings.json is not None:
        check_output(settings.json)
    _check_extras(settings)
    image = None if settings.session is None else session_picture(settings)
    request = make_request(settings, load_inputs(settings, image))
    if request.is_empty:
        yield from _copies(request, settings, outputs)
        return
    chosen = choose_weights(settings)
    _check_level(settings, chosen.base)
    settings = place(chosen.settings)
    began = perf_counter()
    pipe = _load(settings, chosen.base, settings.task, **_added(settings))
    refiner = None
    if chosen.refiner is not None:
        task = "img2img" if settings.task == "text2img" else settings.task
        refiner = _load(settings, chosen.refiner, task)
    loaded, made = perf_counter() - began, []
    for number, output in enumerate(outputs):
        one = replace(settings, seed=settings.seed + number, n=1)
        result = _edit(pipe, refiner, request, one)
        save_png(result.image, output, one.to_dict())
        made.append(figures(result, one, output))
        yield f"wrote {output}: {summary(result, one)}" + ("" if number else f"; loaded in {loaded:.1f} s")
    if settings.json is not None:
        write_figures(made, settings, loaded, settings.json)


def output_files(settings: Settings) -> list[Path]:
    """The files that the command writes: the output itself, or for several pictures NAME-1.png, NAME-2.png, ..."""
    output = settings.output_path
    assert output is not None  # Settings checks this
    if settings.n == 1:
        return [output]
    return [output.with_name(f"{output.stem}-{number}{output.suffix}") for number in range(1, settings.n + 1)]


def _copies(request: Request, settings: Settings, outputs: Sequence[Path]) -> Iterator[str]:
    """Writes the picture as it was: what an empty mask asks for."""
    assert request.image is not None
    for number, output in enumerate(outputs):
        save_png(request.image, output, replace(settings, seed=settings.seed + number, n=1).to_dict())
        yield f"wrote {output}: the mask is empty, so this is the picture as it was"
    if settings.json is not None:
        write_figures([], settings, 0.0, settings.json)


def _edit(pipe: Any, refiner: Any, request: Request, settings: Settings) -> Result:
    request = replace(request, sampling=replace(request.sampling, seed=settings.seed))
    if settings.session is not None:
        return edit_in_session(pipe, request, settings)
    from sdxl.edits.run import run as run_request

    return run_request(pipe, _sized(request, settings, pipe), refiner=refiner)


def _check_extras(settings: Settings) -> None:
    files: dict[str, Sequence[Path | str]] = {
        "lora": [with_strength(text)[0] for text in settings.lora],
        "textual_inversion": settings.textual_inversion,
        "vae": [] if settings.vae is None else [settings.vae],
        "controlnet": [] if settings.controlnet is None else [settings.controlnet],
    }
    for name, named in files.items():
        for file in named:
            if not Path(file).exists():
                raise InputError(f"{flag(name)}: {file} does not exist")


def _added(settings: Settings) -> dict[str, Any]:
    """What the base has beside its weights, and a refiner has not."""
    return {name: getattr(settings, name) for name in ("lora", "textual_inversion", "controlnet")}


def _check_level(settings: Settings, weights: Weights) -> None:
    """Refuses to merge tokens at the finest level alone where the model has no attention there."""
    if settings.tome_max_downsample == 1 and not weights.kind.startswith("sd15"):
        raise InputError(
            f"tome_max_downsample: got 1, but {weights.kind} has no attention at that level, so nothing would merge: "
            "take 2 or 4, or leave it out",
            "tome_max_downsample",
        )


def _load(settings: Settings, weights: Weights, task: str, **added: Any) -> Any:
    from sdxl.pipelines import load

    pipe = load.load_weights(
        weights,
        task=task,
        config_path=settings.config_path,
        device=settings.device,
        dtype=named_dtype(settings.dtype),
        scheduler=settings.scheduler,
        vae=settings.vae,
        attention=settings.attention,
        offload=settings.offload,
        **added,
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
    """The request; where the model's size is asked for, a copy with the settings' sides or with the model's own."""
    if request.size is not None or (request.task != "text2img" and request.only_masked is None):
        return request
    side = int(pipe.unet.config.sample_size) * 8
    side = min(side, TURBO_SIDE) if settings.turbo else side
    return replace(request, size=(settings.height or side, settings.width or side))
