"""`python -m sdxl.demo`: three edits by the embedded model, each dense and sparse, as one picture with times and work.

The third is the third of a session: the place of the first edit again, with another wish, on its recordings.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from sdxl.checkpoint.configs import config_folder
from sdxl.checkpoint.embedded import EMBEDDED
from sdxl.commands.examples import MATCH_EDGE, Example, another_wish, inpainting, painted_over
from sdxl.commands.memory import keep_freed_memory
from sdxl.commands.parser import Parser, run
from sdxl.edits.result import Result
from sdxl.edits.run import run as run_request
from sdxl.edits.sampling import Sampling
from sdxl.errors import InputError
from sdxl.pictures.panels import Panel, Row, sheet
from sdxl.pictures.png import save_png
from sdxl.pipelines.load import load_pipeline
from sdxl.sessions.session import Session
from sige import Temporal
from sige.files import atomic_write, check_output
from sige.profiling import Candidate, interleaved

__all__ = ["Timed", "compare", "main", "third_edit"]

LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
TRIAL_STEPS = 2  # enough to warm up, and to see which layout is the faster
SPARSE = Temporal()  # the default


@dataclass(frozen=True)
class Timed:
    """An edit that was run several times."""

    result: Result
    seconds: float  # median over the runs, encoding and decoding included


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0, or 2 after one line that says what the user can mend."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # on import it warns of packages that we do not need
    if arguments is None:  # a process of our own
        keep_freed_memory()
    return run(_demo, _parse, arguments)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m sdxl.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/demo"), metavar="FOLDER", help="default: out/demo")
    parser.add_argument("--seed", type=int, default=3, help="of the noise (default: 3, a good one of the first six)")
    parser.add_argument("--steps", type=int, default=30, help="denoising steps (default: 30)")
    parser.add_argument("--scale", type=float, default=4.0, help="guidance by the prompt (default: 4)")
    parser.add_argument("--runs", type=int, default=3, help="timed runs of each, the median counts (default: 3)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures too")
    options = parser.parse_args(arguments)
    for name, most in (("runs", 1000), ("steps", 1000)):
        if not 1 <= getattr(options, name) <= most:
            raise InputError(f"--{name}: got {getattr(options, name)}, expected at least 1, at most {most}")
    if options.device not in ("cpu", "cuda"):
        raise InputError(f"--device: got {options.device!r}, expected cpu or cuda")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no GPU here; take --device cpu")
    if not 0 <= options.scale <= 1000:
        raise InputError(f"--scale: got {options.scale}, expected a number from 0 to 1000")
    return options


def _demo(options: argparse.Namespace) -> None:
    sampling = Sampling(steps=options.steps, scale=options.scale, seed=options.seed)
    sampling.strength_of("sdedit")  # refuses too few steps before anything takes time
    if options.json is not None:
        check_output(options.json)
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    told: dict[str, dict[str, Timed]] = {}
    print(f"{'edit':<12}{'run':<8}{'passes':>35}{'seconds':>9}{'G MACs':>9}{'dense/this: time':>18}{'work':>7}")
    for example in (inpainting(), painted_over()):
        timed = told[example.task] = compare(example, sampling, options.runs, options.device)
        for line in _lines(example.task, timed):
            print(line)
        rows.append(_row(example, timed, example.task))
        _save(example.task, example, timed, options.out)
        if example.task == "inpainting":
            first = timed["dense"].seconds
    wish, timed = third_edit(another_wish(), sampling, options.runs, first, options.device)
    told["session"] = timed
    for line in _lines("session", timed):
        print(line)
    rows.append(_row(wish, timed, "session, third edit"))
    _save("session", wish, timed, options.out)
    path = options.out / "demo.png"
    save_png(sheet(rows), path, {})
    print(f"wrote {path}")
    if options.json is not None:
        _write_figures(told, options)


# ---- dense and sparse ------------------------------------------------------------------------------------------------


@torch.no_grad()
def compare(example: Example, sampling: Sampling, runs: int = 3, device: str = "cpu") -> dict[str, Timed]:
    """Runs the example dense and sparse in turn, with the same noise, and returns results and times.

    The dense run is diffusers' own pipeline, with its weights in the faster memory layout.
    """
    pipe = _load(example.task, device)
    layout = _faster_layout(pipe, example, sampling)
    made: dict[str, Result] = {}

    def dense() -> None:
        made["dense"] = run_request(pipe, example.request(sampling, None))

    def sparse() -> None:
        made["sparse"] = run_request(pipe, example.request(sampling, SPARSE))

    both = {"dense": Candidate(dense, partial(_lay_out, pipe, layout)), "sparse": Candidate(sparse)}
    times = interleaved(both, runs, pipe.device, warm_up=0)
    return {name: Timed(result, times[name].median / 1e3) for name, result in made.items()}


@torch.no_grad()
def third_edit(
    wish: Example, sampling: Sampling, runs: int, dense_seconds: float, device: str = "cpu"
) -> tuple[Example, dict[str, Timed]]:
    """Runs the wish as the third edit of a session, dense and sparse in turn, from the same state.

    Returns it with the picture that the session had by then. The dense time is the shorter of this one's and
    `dense_seconds`, that of a dense call without a session.
    """
    pipe, picture = _load(wish.task, device), wish.pictures
    assert picture.mask is not None
    mask = picture.mask
    made: dict[str, Result] = {}
    with Session(pipe, picture.image) as session:
        for seed in (0, 1):
            session.edit(mask, replace(sampling, prompt=inpainting().prompt, seed=sampling.seed + seed))
        session.accept()
        third = replace(sampling, prompt=wish.prompt, seed=sampling.seed + 2)

        def edit(name: str) -> None:
            made[name] = session.edit(mask, third, dense=name == "dense", match_edge=MATCH_EDGE)

        both = {name: Candidate(partial(edit, name)) for name in ("dense", "sparse")}
        times = interleaved(both, runs, pipe.device, warm_up=1)
        wish = replace(wish, pictures=replace(picture, image=session.picture))
    timed = {name: Timed(result, times[name].median / 1e3) for name, result in made.items()}
    timed["dense"] = replace(timed["dense"], seconds=min(timed["dense"].seconds, dense_seconds))
    return wish, timed


def _load(task: str, device: str) -> Any:
    pipe = load_pipeline(
        model=EMBEDDED,
        run_type="original",
        task=task,
        weight_path=Path(),
        config_path=config_folder(),
        device=device,
        dtype=torch.float32,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _faster_layout(pipe: Any, example: Example, sampling: Sampling) -> torch.memory_format:
    """The layout in which a few dense steps run faster; these steps warm everything up, too."""
    few = example.request(replace(sampling, steps=TRIAL_STEPS, strength=1.0), None)
    trial = {
        name: Candidate(lambda: run_request(pipe, few), partial(_lay_out, pipe, layout))
        for name, layout in LAYOUTS.items()
    }
    times = interleaved(trial, runs=2, device=pipe.device, warm_up=1)
    return LAYOUTS[min(times, key=lambda name: times[name].median)]


def _lay_out(pipe: Any, layout: torch.memory_format) -> None:
    for model in (pipe.unet, pipe.vae):
        model.to(memory_format=layout)


# ---- what is shown ---------------------------------------------------------------------------------------------------


def _lines(name: str, timed: dict[str, Timed]) -> list[str]:
    dense = timed["dense"]
    lines = []
    for kind, one in timed.items():
        taken = one.result.passes["unet"].describe()
        figures = f"{one.seconds:>9.2f}{one.result.macs / 1e9:>9.1f}"
        ratios = f"{dense.seconds / one.seconds:>18.2f}{dense.result.macs / one.result.macs:>7.2f}"
        lines.append(f"{name:<12}{kind:<8}{taken:>35}{figures}{ratios}")
    return lines


def _write_figures(told: dict[str, dict[str, Timed]], options: argparse.Namespace) -> None:
    """Writes the printed figures as JSON."""
    edits = {
        edit: {
            kind: {
                "seconds": one.seconds,
                "macs": one.result.macs,
                "passes": {name: asdict(passes) for name, passes in one.result.passes.items()},
            }
            for kind, one in timed.items()
        }
        for edit, timed in told.items()
    }
    said = {name: getattr(options, name) for name in ("seed", "steps", "scale", "runs")}
    with atomic_write(options.json) as temporary:
        temporary.write_text(json.dumps({**said, "edits": edits}, indent=2) + "\n")


def _row(example: Example, timed: dict[str, Timed], name: str) -> Row:
    """A row of the sheet: the picture that goes in, and those that come out."""
    pictures, dense, sparse = example.pictures, timed["dense"], timed["sparse"]
    region = sparse.result.region
    share = region.ratio(*region.image_size)
    given = pictures.edited or pictures.image
    assert given is not None
    mask = None if pictures.mask is None else pictures.mask > 0
    asked = (
        f"repaint the frame, {share:.0%} of the picture" if pictures.edited is None else f"painted over: {share:.0%}"
    )
    times, less = dense.seconds / sparse.seconds, dense.result.macs / sparse.result.macs
    panels = (
        Panel(given, asked, mask),
        Panel(dense.result.image, f"dense: {_figures(dense)}"),
        Panel(sparse.result.image, f"sparse: {_figures(sparse)}; {times:.2f}x as fast, {less:.1f}x less work"),
    )
    return Row(panels, f'{name}: "{example.prompt}"')


def _figures(timed: Timed) -> str:
    return f"{timed.seconds:.2g} s, {timed.result.macs / 1e9:.2g} G MACs"


def _save(name: str, example: Example, timed: dict[str, Timed], folder: Path) -> None:
    """Writes every picture to a file of its own, at its own size."""
    pictures: dict[str, Image.Image | None] = {kind: one.result.image for kind, one in timed.items()}
    pictures |= {"original": example.pictures.image, "edited": example.pictures.edited}
    if example.pictures.mask is not None:
        pictures["mask"] = Image.fromarray((example.pictures.mask * 255).astype("uint8"))
    for kind, picture in pictures.items():
        if picture is not None:
            save_png(picture, folder / f"{name}-{kind}.png", {"prompt": example.prompt})


if __name__ == "__main__":
    sys.exit(main())
