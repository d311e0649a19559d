"""A whole inpainting call at full size, dense against the policies: seconds, ratio, multiply-accumulates.

    python -m benchmarks.pipeline [--steps 30] [--rows dense balanced fast session temporal-7 lockstep] [--json OUT]

SDXL base's UNet and VAE with random weights, 512x1024, guidance (UNet batch 2), the 11.6 % rectangle. Needs about 22 GB
in fp32, and half an hour for the dense row alone. Each row is one call of diffusers' own inpainting pipeline; what a
step takes is a median over the row's own steps. `session` makes two rows: a first edit, and another of the same place.

With --dense-steps N the dense row takes N steps. Its total is then the VAE's seconds and --steps times its median step.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import sige
from benchmarks.harness import Row, machine, print_table, write_json
from benchmarks.packed import SIZE, rectangle
from sdxl.pipelines.mended import mended
from sige.dtypes import DTYPE_NAMES, named_dtype
from sige.passes import Passes
from sige.policies import PRESETS
from sige.profiling import build, count_passes, peak_bytes

DENSE, SESSION = "dense", "session"


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


def run(
    pipe: Any,
    steps: int,
    dtype: torch.dtype,
    latents: Tensor | None = None,  # [1, 4, h, w]: of the picture, which else is encoded
) -> Tensor:  # [1, 3, H, W], or latents [1, 4, h, w] where latents are given
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
    image = torch.rand(1, 3, *SIZE, generator=generator) if latents is None else latents
    mask = torch.tensor(rectangle(), dtype=torch.float32)[None, None]
    size = {"height": SIZE[0], "width": SIZE[1]}
    options: dict[str, Any] = {"num_inference_steps": steps, "strength": 1.0, "guidance_scale": 7.5}
    options["output_type"] = "pt" if latents is None else "latent"
    return pipe(image=image, mask_image=mask, **embeds, **size, **options, generator=generator).images  # type: ignore[no-any-return]


def policy_of(row: str) -> sige.Policy:
    """The policy that a row's name stands for: `lockstep`, a preset, or `temporal-7` with seven dense steps."""
    if row == "lockstep":
        return sige.Lockstep(original=torch.zeros(1, 4, SIZE[0] // 8, SIZE[1] // 8))
    if row in PRESETS:
        return sige.Temporal(row)
    return sige.Temporal("plain", dense_steps=int(row.removeprefix("temporal-")))


def measure(row: str, steps: int, dtype: torch.dtype, dense_steps: int | None = None) -> list[Row]:
    pipe = make_pipe(dtype)
    if row == DENSE:
        pipe.unet.to(memory_format=torch.channels_last)  # as in the packed rows; it is not slower
        taken = dense_steps or steps
        result = timed(pipe, row, lambda: run(pipe, taken, dtype))
        if taken != steps:
            vae = result["encoder s"] + result["decoder s"]
            result |= {"UNet s": steps * result["median step s"], "total s": vae + steps * result["median step s"]}
        return [result | {"passes": asdict(Passes(dense=steps))}]
    with sige.enable(pipe) as handle:
        if row == SESSION:
            return measure_session(pipe, handle, steps, dtype)
        with handle.edit(rectangle(), policy_of(row)):
            result = timed(pipe, row, lambda: run(pipe, steps, dtype))
            return [result | {"passes": asdict(handle.passes)}]


def measure_session(pipe: Any, handle: sige.Handle, steps: int, dtype: torch.dtype) -> list[Row]:
    """A first edit that leaves its recordings in a store, and another of the same place, by the engine's own verbs."""
    store = sige.Store(code="8 bit")  # what fits beside the weights in 24 GiB
    latents = torch.randn(1, 4, SIZE[0] // 8, SIZE[1] // 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    found: list[Tensor] = []

    def sample() -> None:
        with mended(pipe):
            found[:] = [run(pipe, steps, dtype, latents)]

    def decode() -> None:
        pipe.vae.decode(found[0] / pipe.vae.config.scaling_factor)

    with handle.edit(rectangle(), sige.Temporal(), store=store):
        first = timed(pipe, "session, first edit", sample)
        first["passes"] = asdict(handle.passes)
    with handle.record() as recording:
        first = _and(first, timed(pipe, "", decode))
    store.put("vae.decoder", 0, recording.components["vae.decoder"])
    recording.clear()
    handle.last = None
    first["store GiB"] = store.nbytes / 2**30
    with handle.edit(rectangle(), sige.Stored(store.steps("unet")), store=store):
        later = timed(pipe, "session, same place", sample)
        later["passes"] = asdict(handle.passes)
    store.hold(())
    region = sige.Region.from_mask(rectangle(), dilation=1)
    with handle.edit(region, blend=[(store.get("vae.decoder", 0), 1.0)]):
        later = _and(later, timed(pipe, "", decode))
    return [first, later | {"store GiB": store.nbytes / 2**30}]


def _and(row: Row, decoding: Row) -> Row:
    """The row of sampling, with that of decoding in it."""
    sums = {name: row[name] + decoding[name] for name in ("total s", "decoder s")}
    return row | sums | {"peak GiB": max(row["peak GiB"], decoding["peak GiB"])}


def timed(pipe: Any, row: str, call: Callable[[], object]) -> Row:
    with clocked(pipe.unet) as unet, clocked(pipe.vae.encoder) as encoder, clocked(pipe.vae.decoder) as decoder:
        begin = time.perf_counter()
        peak = peak_bytes(call, torch.device("cpu"))
        total = time.perf_counter() - begin
    return {
        "row": row,
        "total s": total,
        "UNet s": sum(unet),
        "encoder s": sum(encoder),
        "decoder s": sum(decoder),
        "peak GiB": peak / 2**30,
        "median step s": statistics.median(unet) if unet else 0.0,
        "steps": unet,
    }


def with_work(rows: list[Row]) -> list[Row]:
    """The rows with their ratios to the dense row and the work of all their UNet passes."""
    region = sige.Region.from_mask(rectangle(), dilation=0)
    counts = count_passes(build("sdxl-base", SIZE), region)
    dense = next((row for row in rows if row["row"] == DENSE), None)
    for row in rows:
        passes, dense_macs, packed_macs = Passes(**row["passes"]), counts.dense.all, counts.packed.all
        work = passes.dense * dense_macs + passes.packed * packed_macs + passes.half * (dense_macs + packed_macs) / 2
        row.setdefault("store GiB", 0.0)
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
    parser.add_argument("--rows", nargs="+", default=[DENSE, "balanced", "fast", SESSION, "temporal-7", "lockstep"])
    parser.add_argument("--dense-steps", type=int, metavar="N", help="take only N steps of the dense row")
    parser.add_argument("--dtype", default="fp32", choices=DTYPE_NAMES)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write figures, machine and settings to OUT")
    options = parser.parse_args()
    facts = machine()
    print(", ".join(f"{name} {value}" for name, value in facts.items() if name != "backends"))
    settings = {
        "steps": options.steps,
        "dense steps taken": options.dense_steps or options.steps,
        "dtype": options.dtype,
        "size": SIZE,
        "mask": "11.6 % rectangle",
    }
    rows: list[Row] = []
    for name in options.rows:
        rows = with_work([*rows, *measure(name, options.steps, named_dtype(options.dtype), options.dense_steps)])
        print_table([_shown(row) for row in rows])
        if options.json:  # after each row: a row takes minutes
            write_json(options.json, {"machine": facts, "settings": settings, "rows": rows})


if __name__ == "__main__":
    main()
