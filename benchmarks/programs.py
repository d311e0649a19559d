"""Packed passes of small models, whose time is mostly Python's: layer by layer, and as programs (docs/programs.md).

    python -m benchmarks.programs [--runs 15] [--busy] [--json OUT]

    embedded     the embedded model's inpainting UNet, 256x256, a square of 10 %
    sdxl, thin   SDXL's UNet with all its layers and few channels, 128x128, the same square: there is next to nothing to
                 compute, so its time is what every pass of SDXL pays before any arithmetic

Dense and packed passes take turns; a figure is a median. `--busy` keeps another process running on each core but one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import sige
from benchmarks.harness import Row, machine, print_table, write_json
from sdxl.checkpoint.configs import config_folder
from sdxl.checkpoint.embedded import EMBEDDED
from sdxl.pipelines.load import load_pipeline
from sige.profiling import Candidate, build, interleaved

SHARE = 0.10  # of the picture
BLENDS = {"one": (1.0,), "three": (3.0, -3.0, 1.0)}  # recordings that a pass reads: the last, a quadratic forecast
THIN = {
    "block_out_channels": (32, 64, 64),
    "attention_head_dim": (2, 4, 4),
    "cross_attention_dim": 32,
}

Call = Callable[[Tensor], Any]


def embedded() -> tuple[Any, Call, Tensor, int]:
    """The UNet, a call of it, an input [2, 9, 32, 32] and the side of the picture."""
    pipe = load_pipeline(
        model=EMBEDDED,
        run_type="original",
        task="inpainting",
        weight_path=Path(),
        config_path=config_folder(),
        device="cpu",
        dtype=torch.float32,
    )
    unet, pooled = pipe.unet, pipe.text_encoder_2.config.projection_dim
    text = torch.randn(2, 77, unet.config.cross_attention_dim)
    added = {"text_embeds": torch.randn(2, pooled), "time_ids": torch.tensor([[256.0, 256, 0, 0, 256, 256]] * 2)}

    def call(sample: Tensor) -> Any:
        return unet(sample, torch.tensor(481), encoder_hidden_states=text, added_cond_kwargs=added)

    return unet, call, torch.randn(2, unet.config.in_channels, 32, 32), 256


def thin() -> tuple[Any, Call, Tensor, int]:
    """The same of SDXL's UNet with few channels: an input [2, 4, 16, 16]."""
    subject = build("sdxl-base", (128, 128), device="cpu", changes=THIN)
    return subject.target, lambda sample: subject.module(sample, **subject.arguments), subject.sample, 128


SUBJECTS = {"embedded": embedded, "sdxl, thin": thin}


def square(side: int) -> np.ndarray:  # bool [side, side]
    mask = np.zeros((side, side), dtype=bool)
    width = round(side * SHARE**0.5)
    first = (side - width) // 2
    mask[first : first + width, first : first + width] = True
    return mask


@torch.no_grad()
def measure(name: str, runs: int) -> list[Row]:
    torch.manual_seed(0)
    unet, call, sample, side = SUBJECTS[name]()
    region = sige.Region.from_mask(square(side), dilation=0)
    rows = []
    with sige.enable(unet) as handle:
        recordings = []
        for _ in range(3):
            with handle.record() as recording:
                call(torch.randn_like(sample))
            recordings.append(recording)
        for blend, weights in BLENDS.items():
            terms = list(zip(recordings, weights, strict=False))

            def packed(as_program: bool, terms: list[Any] = terms) -> Callable[[], object]:
                def run() -> None:
                    os.environ["SIGE_PROGRAMS"] = str(int(as_program))  # 1: from the third pass on
                    with handle.edit(region, blend=terms):
                        call(sample)

                return run

            both = {"layers": packed(False), "program": packed(True), "dense": lambda: call(sample)}
            times = interleaved({key: Candidate(one) for key, one in both.items()}, runs, sample.device, warm_up=4)
            why = handle.programs["unet"].why_not
            if why:
                raise RuntimeError(f"{name}: no program: {why}")
            rows.append(
                {
                    "model": name,
                    "recordings": blend,
                    "lines": len(handle.programs["unet"].programs[-1].lines),
                    "dense ms": times["dense"],
                    "layers ms": times["layers"],
                    "program ms": times["program"],
                    "dense / program": times["dense"].median / times["program"].median,
                }
            )
    return rows


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Inside, other processes compute all the time."""
    others = [multiprocessing.Process(target=_spin, daemon=True) for _ in range(processes)]
    for other in others:
        other.start()
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.join()


def _spin() -> None:
    while True:
        sum(range(10_000))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.programs", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=list(SUBJECTS), default=list(SUBJECTS), help="which")
    parser.add_argument("--runs", type=int, default=15, help="counted passes per figure, after four to warm up")
    parser.add_argument("--busy", action="store_true", help="beside other processes on all cores but one")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write figures, machine and settings to OUT")
    options = parser.parse_args()
    with busy((os.cpu_count() or 1) - 1 if options.busy else 0):
        rows = [row for name in options.models for row in measure(name, options.runs)]
    print_table(rows)
    if options.json:
        settings = {"runs": options.runs, "busy": options.busy}
        write_json(options.json, {"machine": machine(), "settings": settings, "rows": rows})


if __name__ == "__main__":
    main()
