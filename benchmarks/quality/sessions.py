"""Later edits of a session on the embedded model, scored against a dense run of the same state.

    python -m benchmarks.quality.sessions [--set A] [--edits 50] [--json OUT] [--row NAME]

Each picture gets a first edit, and then:
  same mask, other prompt   the first edit is not accepted; the same mask with a prompt for another thing
  same mask, other seed     the same mask and prompt with other noise
  other mask                the first edit is accepted; a mask elsewhere with another prompt: a first edit again, with
                            the VAE packed
  in a row                  twenty edits, each accepted; only the last is scored

PSNR is inside the mask. MACs are a share of the dense edit's. `SDXL` is how many times less work the edit takes than a
dense one with SDXL at 512x1024 and the 11.6 % rectangle, VAE included, counted for the passes that ran here.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
from tqdm import tqdm

import sige
from benchmarks.harness import Row, machine, print_table, write_json
from benchmarks.packed import SIZE, rectangle
from benchmarks.quality.bench import MOST, Bench, settings_of
from benchmarks.quality.edits import SETS, Edit, another_mask, another_prompt
from benchmarks.quality.metrics import Mask, psnr
from sdxl.checkpoint.embedded import embedded_weights
from sdxl.edits.sampling import Sampling
from sdxl.edits.work import EditWork, PipelineShape
from sdxl.sessions.session import Session
from sige.passes import Passes
from sige.policies import PRESETS
from sige.policies.stored import DILATION
from sige.profiling import build
from sige.sizes import parse_bytes

IN_A_ROW = 20


@dataclass(frozen=True)
class Score:
    """One later edit against a dense run of the same state."""

    edit: int
    psnr: float
    work: float
    seconds: float
    dense_seconds: float
    passes: dict[str, Any]
    equal_outside: bool  # every pixel outside every mask is the first picture's


def same_mask(session: Session, edit: Edit, sampling: Sampling, **changes: Any) -> Score:
    session.edit(edit.mask, sampling)
    return score(session, edit, edit.mask, replace(sampling, **changes), edit.mask)


def other_prompt(session: Session, edit: Edit, sampling: Sampling) -> Score:
    return same_mask(session, edit, sampling, prompt=another_prompt(edit))


def other_seed(session: Session, edit: Edit, sampling: Sampling) -> Score:
    return same_mask(session, edit, sampling, seed=sampling.seed + 777)


def other_mask(session: Session, edit: Edit, sampling: Sampling) -> Score:
    session.edit(edit.mask, sampling)
    session.accept()
    mask, prompt = another_mask(edit, 0)
    return score(session, edit, mask, replace(sampling, prompt=prompt, seed=sampling.seed + 1), edit.mask | mask)


def in_a_row(session: Session, edit: Edit, sampling: Sampling) -> Score:
    session.edit(edit.mask, sampling)
    session.accept()
    painted = edit.mask
    for number in range(1, IN_A_ROW):
        mask, prompt = another_mask(edit, number)
        sampling, painted = replace(sampling, prompt=prompt, seed=sampling.seed + 1), painted | mask
        if number == IN_A_ROW - 1:
            return score(session, edit, mask, sampling, painted)
        session.edit(mask, sampling)
        session.accept()
    raise AssertionError("the last edit is scored")


KINDS: dict[str, Callable[[Session, Edit, Sampling], Score]] = {
    "same mask, other prompt": other_prompt,
    "same mask, other seed": other_seed,
    "other mask": other_mask,
    "in a row": in_a_row,
}


def score(session: Session, edit: Edit, mask: Mask, sampling: Sampling, painted: Mask) -> Score:
    """Makes the edit dense and on the store, from the same state."""
    dense = session.edit(mask, sampling, dense=True)
    result = session.edit(mask, sampling)
    pixels, before = np.asarray(result.image), np.asarray(edit.image)
    passes = result.passes["unet"]
    return Score(
        edit=edit.number,
        psnr=min(psnr(pixels, np.asarray(dense.image), mask), MOST),
        work=result.work,
        seconds=result.seconds,
        dense_seconds=dense.seconds,
        passes=vars(passes).copy(),
        equal_outside=bool(np.array_equal(pixels[~painted], before[~painted])),
    )


def scores(options: argparse.Namespace, kind: str) -> Iterator[Score]:
    edits = SETS[options.set](options.edits, 256)
    weights = embedded_weights()
    settings = settings_of(weights, edits, steps=options.steps, scale=options.scale)
    pipe = Bench(weights, edits, settings, Path("out/quality")).pipe
    for edit in tqdm(edits, desc=kind):
        sampling = Sampling(edit.prompt, steps=options.steps, scale=options.scale, seed=edit.number)
        budget = None if options.budget is None else parse_bytes(options.budget)
        policy = None if options.preset is None else sige.Temporal(options.preset)
        with Session(pipe, edit.image, budget=budget, code=options.code, policy=policy) as session:
            yield KINDS[kind](session, edit, sampling)


# ---- SDXL ------------------------------------------------------------------------------------------------------------


@cache
def _shapes() -> PipelineShape:
    """SDXL's UNet and VAE on the meta device."""
    unet, vae = build("sdxl-base", SIZE).target, build("vae-decoder", SIZE).target
    return PipelineShape.of(
        SimpleNamespace(unet=unet, vae=vae, text_encoder_2=SimpleNamespace(config=SimpleNamespace(projection_dim=1280)))
    )


def times_less(passes: Passes, guided: bool = True) -> float:
    """How many times less work the passes are than a dense edit's, with SDXL and the VAE packed on the store."""
    region = sige.Region.from_mask(rectangle(), dilation=0 if passes.dense else DILATION)
    ran = {"unet": passes, "vae.decoder": Passes(packed=1)}
    dense = {"unet": passes.calls, "vae.encoder": 1, "vae.decoder": 1}
    decode = sige.Region.from_mask(rectangle(), dilation=1)
    return 1 / EditWork({"": _shapes()}, SIZE, region, guided, ran, dense, decode_region=decode).share


# ---- the table -------------------------------------------------------------------------------------------------------


def line(name: str, found: list[Score]) -> Row:
    values = [one.psnr for one in found]
    passes = Passes(**found[-1].passes)
    return {
        "row": name,
        "edits": len(found),
        "PSNR": f"{median(values):.1f}",
        "10th pct": f"{np.percentile(values, 10):.1f}",
        "worst": f"{min(values):.1f}",
        "passes": passes.describe(),
        "MACs": f"{median(one.work for one in found):.3f}",
        "time": f"{median(one.seconds / one.dense_seconds for one in found):.2f}",
        "SDXL": f"{times_less(passes):.1f}",
        "equal outside": f"{sum(one.equal_outside for one in found) / len(found):.0%}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--set", choices=list(SETS), default="A")
    parser.add_argument("--edits", type=int, default=50)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--scale", type=float, default=4.0)
    parser.add_argument("--preset", choices=list(PRESETS), help="of first edits (default: balanced)")
    parser.add_argument("--budget", help="of each session's recordings, as 100MiB (default: none)")
    parser.add_argument("--code", default="auto", help="auto, exact, '16 bit' or '8 bit'")
    parser.add_argument("--row", nargs="+", choices=list(KINDS), default=list(KINDS)[:3], metavar="NAME")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write every score to OUT")
    options = parser.parse_args()
    facts = machine()
    lines, kept = [], {}
    for name in options.row:
        found = list(scores(options, name))
        kept[name] = [vars(one) for one in found]
        lines.append(line(name, found))
        print_table(lines)
        if options.json:
            settings = {key: str(value) for key, value in vars(options).items() if key not in ("json", "row")}
            write_json(options.json, {"machine": facts, "settings": settings, "rows": lines, "scores": kept})


if __name__ == "__main__":
    main()
