"""A whole inpainting call at full size, dense against the policies: seconds, ratio, multiply-accumulates.

    python -m benchmarks.pipeline [--steps 30] [--rows dense balanced fast temporal-7 lockstep] [--json OUT]

SDXL base's UNet and VAE with random weights, 512x1024, guidance (UNet batch 2), the 11.6 % rectangle, dilation 1. Needs
about 20 GB in fp32, and half an hour for the dense row alone. Each row is one call of diffusers' own inpainting
pipeline; what a step takes is a median over the row's own steps.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import sige
from benchmarks.harness import Row, machine, print_table, write_json
from benchmarks.packed import SIZE, rectangle
from sige.dtypes import DTYPE_NAMES, named_dtype
from sige.passes import Passes
from sige.policies import PRESETS
from sige.profiling import build, count_passes, peak_bytes

DENSE = "dense"


@contextmanager
def clocked(module: Any) -> Iterator[list[float]]:
    """Measures the seconds of each call of the module's forward, its own or a replaced one; yields their list."""
    seconds: list[float] = []
    had, inner = "forward" in vars(module), module.forward

    def timed(*args: Any, **kwargs: Any) -> Any:
        begin = time.perf_counter()
        result = inner(*args, **kwargs)
        seconds.append(time.perf_counter() - begin)
        return result

    module.forward = timed
    try:
        yield seconds
    finally:
        if had:
            module.forward = inner
        else:
            del module.forward


def make_pipe(dtype: torch.dtype) -> Any:
    """Diffusers' pipeline without text encoders: prompts are passed as embeddings."""
    from diffusers import DDIMScheduler, StableDiffusionXLInpaintPipeline

    unet = build("sdxl-base", SIZE, device="cpu", dtype=dtype).target
    vae = build("vae-decoder", SIZE, device="cpu", dtype=dtype).target
    noise = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
    nothing = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    return StableDiffusionXLInpaintPipeline(unet=unet, vae=vae, scheduler=noise, add_watermarker=False, **nothing)


def run(pipe: Any, steps: int, dtype: torch.dtype) -> Tensor:  # [1, 4, h, w]
    generator = torch.Generator().manual_seed(0)
    embeds = {
        name: torch.randn(1, *shape, generator=generator).to(dtype)
        for name, shape in (
            ("prompt_embeds", (77, 2048)),
            ("negative_prompt_embeds", (77, 2048)),
            ("pooled_prompt_embeds", (1280,)),
            ("negative_pooled_prompt_embeds", (1280,)),
        )
    }
    image = torch.rand(1, 3, *SIZE, generator=generator)
    mask = torch.tensor(rectangle(), dtype=torch.float32)[None, None]
    size = {"height": SIZE[0], "width": SIZE[1]}
    options = {"num_inference_steps": steps, "strength": 1.0, "guidance_scale": 7.5, "output_type": "pt"}
    return pipe(image=image, mask_image=mask, **embeds, **size, **options, generator=generator).images  # type: ignore[no-any-return]


def policy_of(row: str) -> sige.Policy:
    """The policy that a row's name stands for: `lockstep`, a preset, or `temporal-7` with seven dense steps."""
    if row == "lockstep":
        return sige.Lockstep(original=torch.zeros(1, 4, SIZE[0] // 8, SIZE[1] // 8))
    if row in PRESETS:
        return sige.Temporal(row, dilation=1)
    return sige.Temporal("plain", dense_steps=int(row.removeprefix("temporal-")), dilation=1)


def measure(row: str, steps: int, dtype: torch.dtype) -> Row:
    pipe, result = make_pipe(dtype), Row()
    if row == DENSE:
        pipe.unet.to(memory_format=torch.channels_last)  # as in the packed rows; it is not slower
        result = timed(pipe, row, steps, dtype)
        return result | {"passes": asdict(Passes(dense=steps))}
    with sige.enable(pipe) as handle, handle.edit(rectangle(), policy_of(row)):
        result = timed(pipe, row, steps, dtype)
        return result | {"passes": asdict(handle.passes)}


def timed(pipe: Any, row: str, steps: int, dtype: torch.dtype) -> Row:
    with clocked(pipe.unet) as unet, clocked(pipe.vae.encoder) as encoder, clocked(pipe.vae.decoder) as decoder:
        begin = time.perf_counter()
        peak = peak_bytes(lambda: run(pipe, steps, dtype), torch.device("cpu"))
        total = time.perf_counter() - begin
    return {
        "row": row,
        "total s": total,
        "UNet s": sum(unet),
        "encoder s": sum(encoder),
        "decoder s": sum(decoder),
        "peak GiB": peak / 2**30,
        "median step s": statistics.median(unet),
        "steps": unet,
    }


def with_work(rows: list[Row]) -> list[Row]:
    """The rows with their ratios to the dense row and the work of all their UNet passes."""
    region = sige.Region.from_mask(rectangle(), dilation=1)
    counts = count_passes(build("sdxl-base", SIZE), region)
    dense = next((row for row in rows if row["row"] == DENSE), None)
    for row in rows:
        passes, dense_macs, packed_macs = Passes(**row["passes"]), counts.dense.all, counts.packed.all
        work = passes.dense * dense_macs + passes.packed * packed_macs + passes.half * (dense_macs + packed_macs) / 2
        row["UNet T"] = work / 1e12
        row["dense/this, UNet"] = dense["UNet s"] / row["UNet s"] if dense else None
        row["dense/this, all"] = dense["total s"] / row["total s"] if dense else None
    return rows


def _shown(row: Row) -> Row:
    """The row without its single steps, its passes in words."""
    kept = {key: value for key, value in row.items() if key != "steps"}
    return kept | {"passes": Passes(**row["passes"]).describe()}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rows", nargs="+", default=[DENSE, "balanced", "fast", "temporal-7", "lockstep"])
    parser.add_argument("--dtype", default="fp32", choices=DTYPE_NAMES)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write figures, machine and settings to OUT")
    options = parser.parse_args()
    facts = machine()
    print(", ".join(f"{name} {value}" for name, value in facts.items() if name != "backends"))
    settings = {"steps": options.steps, "dtype": options.dtype, "size": SIZE, "mask": "11.6 % rectangle"}
    rows: list[Row] = []
    for name in options.rows:
        rows = with_work([*rows, measure(name, options.steps, named_dtype(options.dtype))])
        print_table([_shown(row) for row in rows])
        if options.json:  # after each row: a row takes minutes
            write_json(options.json, {"machine": facts, "settings": settings, "rows": rows})


if __name__ == "__main__":
    main()
