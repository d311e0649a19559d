"""`python -m sdxl.demo`: two edits by the embedded model, each dense and sparse, as one picture with times and work."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import sige
from sdxl.checkpoint.configs import config_folder, load_shapes
from sdxl.checkpoint.embedded import EMBEDDED, embedded_kind
from sdxl.commands.examples import Example, inpainting, painted_over
from sdxl.commands.parser import Parser, run
from sdxl.commands.profile import build_unet
from sdxl.edits.edit import Sampling
from sdxl.errors import InputError
from sdxl.pictures.panels import Panel, Row, sheet
from sdxl.pictures.png import save_png
from sdxl.pipelines.load import load_pipeline
from sige import EditConfig, Region
from sige.policies import Passes
from sige.profiling import Candidate, count_passes, interleaved

__all__ = ["Result", "compare", "main"]

LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
TRIAL_STEPS = 2  # enough to warm up, and to see which layout is the faster
SPARSE = EditConfig()  # what a user gets who says nothing


@dataclass(frozen=True)
class Result:
    """One run of a pipeline from end to end."""

    image: Image.Image
    seconds: float  # median over the runs, encoding and decoding included
    passes: Passes
    work: int  # multiply-accumulates of all UNet passes, attention included


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0, or 2 after one line that says what the user can mend."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # on import it warns of packages that we do not need
    return run(_demo, _parse, arguments)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m sdxl.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/demo"), metavar="FOLDER", help="default: out/demo")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    parser.add_argument("--steps", type=int, default=30, help="denoising steps (default: 30)")
    parser.add_argument("--scale", type=float, default=4.0, help="guidance by the prompt (default: 4)")
    parser.add_argument("--runs", type=int, default=3, help="timed runs of each, the median counts (default: 3)")
    options = parser.parse_args(arguments)
    if options.runs < 1:
        raise InputError(f"--runs: got {options.runs}, expected at least 1")
    return options


def _demo(options: argparse.Namespace) -> None:
    sampling = Sampling(steps=options.steps, scale=options.scale, seed=options.seed)
    sampling.strength_of("sdedit")  # refuses too few steps before anything takes time
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    print(f"{'edit':<12}{'run':<8}{'passes':>20}{'seconds':>9}{'G MACs':>9}{'dense/this: time':>18}{'work':>7}")
    for example in (inpainting(), painted_over()):
        results = compare(example, sampling, options.runs)
        for line in _lines(example, results):
            print(line)
        rows.append(_row(example, results))
        _save(example, results, options.out)
    path = options.out / "demo.png"
    save_png(sheet(rows), path, {})
    print(f"wrote {path}")


# ---- dense and sparse ------------------------------------------------------------------------------------------------


@torch.no_grad()
def compare(example: Example, sampling: Sampling, runs: int = 3) -> dict[str, Result]:
    """The same edit with the same noise, dense and sparse in turn.

    Dense is diffusers' pipeline as it is, its weights in the layout in which it runs faster.
    """
    pipe = _load(example.task)
    layout = _faster_layout(pipe, example, sampling)
    made: dict[str, tuple[Image.Image, Passes]] = {}

    def dense() -> None:
        made["dense"] = example.run(pipe, sampling, None), Passes(dense=int(pipe.num_timesteps))

    def sparse() -> None:
        with sige.enable(pipe) as handle:
            made["sparse"] = example.run(pipe, sampling, SPARSE), handle.passes

    both = {"dense": Candidate(dense, partial(_lay_out, pipe, layout)), "sparse": Candidate(sparse)}
    times = interleaved(both, runs, pipe.device, warm_up=0)
    counts = count_passes(_unet(example, sampling), _region(example))
    results = {}
    for name, (image, passes) in made.items():
        work = passes.dense * counts.dense.all + passes.packed * counts.packed.all
        work += counts.text if passes.packed else 0  # keys and values of the prompt, once an edit
        results[name] = Result(image, times[name].median / 1e3, passes, work)
    return results


def _load(task: str) -> Any:
    pipe = load_pipeline(
        model=EMBEDDED,
        run_type="original",
        task=task,
        weight_path=Path(),
        config_path=config_folder(),
        device="cpu",
        dtype=torch.float32,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _faster_layout(pipe: Any, example: Example, sampling: Sampling) -> torch.memory_format:
    """A few steps in each; they warm everything up, too."""
    few = replace(sampling, steps=TRIAL_STEPS, strength=1.0)
    trial = {
        name: Candidate(lambda: example.run(pipe, few, None), partial(_lay_out, pipe, layout))
        for name, layout in LAYOUTS.items()
    }
    times = interleaved(trial, runs=2, device=pipe.device, warm_up=1)
    return LAYOUTS[min(times, key=lambda name: times[name].median)]


def _lay_out(pipe: Any, layout: torch.memory_format) -> None:
    for model in (pipe.unet, pipe.vae):
        model.to(memory_format=layout)


def _unet(example: Example, sampling: Sampling) -> Any:
    """The embedded UNet on the meta device, where counting costs nothing."""
    size = _region(example).image_size
    shapes = load_shapes(embedded_kind(example.task), variant=EMBEDDED)
    return build_unet(shapes, size, guided=sampling.scale > 1)


def _region(example: Example) -> Region:
    region = example.pictures.region(SPARSE.dilates_by)
    assert region is not None  # every example has an edit
    return region


# ---- what is shown ---------------------------------------------------------------------------------------------------


def _lines(example: Example, results: dict[str, Result]) -> list[str]:
    dense = results["dense"]
    lines = []
    for name, result in results.items():
        passes = f"{result.passes.dense} dense" + (f", {result.passes.packed} packed" if result.passes.packed else "")
        figures = f"{result.seconds:>9.2f}{result.work / 1e9:>9.1f}"
        ratios = f"{dense.seconds / result.seconds:>18.2f}{dense.work / result.work:>7.2f}"
        lines.append(f"{example.task:<12}{name:<8}{passes:>20}{figures}{ratios}")
    return lines


def _row(example: Example, results: dict[str, Result]) -> Row:
    """What went in, and what came out of each run."""
    pictures, dense, sparse = example.pictures, results["dense"], results["sparse"]
    share = _region(example).ratio(*_region(example).image_size)
    given = pictures.edited or pictures.image
    assert given is not None
    mask = None if pictures.mask is None else pictures.mask > 0
    asked = (
        f"repaint the frame, {share:.0%} of the picture" if pictures.edited is None else f"painted over: {share:.0%}"
    )
    times, less = dense.seconds / sparse.seconds, dense.work / sparse.work
    panels = (
        Panel(given, asked, mask),
        Panel(dense.image, f"dense: {_figures(dense)}"),
        Panel(sparse.image, f"sparse: {_figures(sparse)}; {times:.2f}x as fast, {less:.1f}x less work"),
    )
    return Row(panels, f'{example.task}: "{example.prompt}"')


def _figures(result: Result) -> str:
    return f"{result.seconds:.2g} s, {result.work / 1e9:.2g} G MACs"


def _save(example: Example, results: dict[str, Result], folder: Path) -> None:
    """Every picture by itself, at its own size."""
    pictures: dict[str, Image.Image | None] = {name: result.image for name, result in results.items()}
    pictures |= {"original": example.pictures.image, "edited": example.pictures.edited}
    if example.pictures.mask is not None:
        pictures["mask"] = Image.fromarray((example.pictures.mask * 255).astype("uint8"))
    for name, picture in pictures.items():
        if picture is not None:
            save_png(picture, folder / f"{example.task}-{name}.png", {"prompt": example.prompt})


if __name__ == "__main__":
    sys.exit(main())
