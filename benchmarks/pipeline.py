"""A whole inpainting call at full size, dense against the policies: seconds, ratio, multiply-accumulates.

    python -m benchmarks.pipeline [--steps 30] [--rows dense balanced fast session temporal-7 lockstep] [--json OUT]
    python -m benchmarks.pipeline --device cuda --dtype bf16 --size 1024x1024 --rows dense balanced

SDXL base's UNet and VAE with random weights, 512x1024, guidance (UNet batch 2), the 11.6 % rectangle, or one of a tenth
at another size. Needs about 22 GB in fp32, and half an hour for the dense row alone on two cores of a CPU. Each row is
one call of diffusers' own inpainting pipeline; what a step takes is a median over the row's own steps. `session` makes
two rows: a first edit, and another of the same place.

With --dense-steps N the dense row takes N steps. Its total is then the VAE's seconds and --steps times its median step.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import sige
from benchmarks.harness import Row, machine, print_table, write_json
from benchmarks.packed import SIZE, rectangle, size_of
from benchmarks.passes import centred
from sdxl.pipelines.mended import mended
from sige.dtypes import DTYPE_NAMES, named_dtype
from sige.passes import Passes
from sige.policies import PRESETS
from sige.profiling import build, count_passes, peak_bytes

DENSE, SESSION = "dense", "session"


@dataclass(frozen=True)
class Setting:
    """What all rows share."""

    steps: int
    dtype: torch.dtype
    device: torch.device = torch.device("cpu")
    size: tuple[int, int] = SIZE

    @property
    def mask(self) -> np.ndarray:  # bool [H, W]
        return rectangle() if self.size == SIZE else centred(0.1, self.size)

    @property
    def latents(self) -> tuple[int, int]:
        return self.size[0] // 8, self.size[1] // 8


def finished() -> float:
    """The time when all work that was given to a GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


@contextmanager
def clocked(module: Any) -> Iterator[list[float]]:
    """Measures the seconds of each call of the module's forward, its own or a replaced one; yields their list."""
    seconds: list[float] = []
    had, inner = "forward" in vars(module), module.forward

    def timed(*args: Any, **kwargs: Any) -> Any:
        begin = finished()
        result = inner(*args, **kwargs)
        seconds.append(finished() - begin)
        return result

    module.forward = timed
    try:
        yield seconds
    finally:
        if had:
            module.forward = inner
        else:
            del module.forward


def make_pipe(setting: Setting) -> Any:
    """Diffusers' pipeline without text encoders: prompts are passed as embeddings."""
    from diffusers import DDIMScheduler, StableDiffusionXLInpaintPipeline

    unet = build("sdxl-base", setting.size, device=setting.device, dtype=setting.dtype).target
    vae = build("vae-decoder", setting.size, device=setting.device, dtype=setting.dtype).target
    noise = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
    nothing = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    return StableDiffusionXLInpaintPipeline(unet=unet, vae=vae, scheduler=noise, add_watermarker=False, **nothing)


def run(
    pipe: Any,
    steps: int,
    setting: Setting,
    latents: Tensor | None = None,  # [1, 4, h, w]: of the picture, which else is encoded
) -> Tensor:  # [1, 3, H, W], or latents [1, 4, h, w] where latents are given
    generator = torch.Generator().manual_seed(0)
    embeds = {
        name: torch.randn(1, *shape, generator=generator).to(setting.device, setting.dtype)
        for name, shape in (
            ("prompt_embeds", (77, 2048)),
            ("negative_prompt_embeds", (77, 2048)),
            ("pooled_prompt_embeds", (1280,)),
            ("negative_pooled_prompt_embeds", (1280,)),
        )
    }
    image = torch.rand(1, 3, *setting.size, generator=generator) if latents is None else latents
    mask = torch.tensor(setting.mask, dtype=torch.float32)[None, None]
    size = {"height": setting.size[0], "width": setting.size[1]}
    options: dict[str, Any] = {"num_inference_steps": steps, "strength": 1.0, "guidance_scale": 7.5}
    options["output_type"] = "pt" if latents is None else "latent"
    return pipe(image=image, mask_image=mask, **embeds, **size, **options, generator=generator).images  # type: ignore[no-any-return]


def policy_of(row: str, setting: Setting) -> sige.Policy:
    """The policy that a row's name stands for: `lockstep`, a preset, or `temporal-7` with seven dense steps."""
    if row == "lockstep":
        return sige.Lockstep(original=torch.zeros(1, 4, *setting.latents, device=setting.device))
    if row in PRESETS:
        return sige.Temporal(row)
    return sige.Temporal("plain", dense_steps=int(row.removeprefix("temporal-")))


def measure(row: str, setting: Setting, dense_steps: int | None = None) -> list[Row]:
    pipe, steps = make_pipe(setting), setting.steps
    if row == DENSE:
        pipe.unet.to(memory_format=torch.channels_last)  # as in the packed rows; it is not slower
        taken = dense_steps or steps
        result = timed(pipe, row, lambda: run(pipe, taken, setting))
        if taken != steps:
            vae = result["encoder s"] + result["decoder s"]
            result |= {"UNet s": steps * result["median step s"], "total s": vae + steps * result["median step s"]}
        return [result | {"passes": asdict(Passes(dense=steps))}]
    with sige.enable(pipe) as handle:
        if row == SESSION:
            return measure_session(pipe, handle, setting)
        with handle.edit(setting.mask, policy_of(row, setting)):
            result = timed(pipe, row, lambda: run(pipe, steps, setting))
            return [result | {"passes": asdict(handle.passes)}]


def measure_session(pipe: Any, handle: sige.Handle, setting: Setting) -> list[Row]:
    """A first edit that leaves its recordings in a store, and another of the same place, by the engine's own verbs."""
    store = sige.Store(code="8 bit")  # what fits beside the weights in 24 GiB
    latents = torch.randn(1, 4, *setting.latents, generator=torch.Generator().manual_seed(1))
    latents = latents.to(setting.device, setting.dtype)
    found: list[Tensor] = []

    def sample() -> None:
        with mended(pipe):
            found[:] = [run(pipe, setting.steps, setting, latents)]

    def decode() -> None:
        pipe.vae.decode(found[0] / pipe.vae.config.scaling_factor)

    with handle.edit(setting.mask, sige.Temporal(), store=store):
        first = timed(pipe, "session, first edit", sample)
        first["passes"] = asdict(handle.passes)
    with handle.record() as recording:
        first = _and(first, timed(pipe, "", decode))
    store.put("vae.decoder", 0, recording.components["vae.decoder"])
    recording.clear()
    handle.last = None
    first["store GiB"] = store.nbytes / 2**30
    with handle.edit(setting.mask, sige.Stored(store.steps("unet")), store=store):
        later = timed(pipe, "session, same place", sample)
        later["passes"] = asdict(handle.passes)
    store.hold(())
    region = sige.Region.from_mask(setting.mask, dilation=1)
    with handle.edit(region, blend=[(store.get("vae.decoder", 0), 1.0)]):
        later = _and(later, timed(pipe, "", decode))
    return [first, later | {"store GiB": store.nbytes / 2**30}]


def _and(row: Row, decoding: Row) -> Row:
    """The row of sampling, with that of decoding in it."""
    sums = {name: row[name] + decoding[name] for name in ("total s", "decoder s")}
    return row | sums | {"peak GiB": max(row["peak GiB"], decoding["peak GiB"])}


def timed(pipe: Any, row: str, call: Callable[[], object]) -> Row:
    with clocked(pipe.unet) as unet, clocked(pipe.vae.encoder) as encoder, clocked(pipe.vae.decoder) as decoder:
        begin = finished()
        peak = peak_bytes(call, pipe.unet.device)
        total = finished() - begin
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


def with_work(rows: list[Row], setting: Setting) -> list[Row]:
    """The rows with their ratios to the dense row and the work of all their UNet passes."""
    region = sige.Region.from_mask(setting.mask, dilation=0)
    counts = count_passes(build("sdxl-base", setting.size), region)
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
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--size", type=size_of, default=SIZE, help="height x width (default: 512x1024)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write figures, machine and settings to OUT")
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("--device cuda: this torch sees no GPU, take --device cpu")
    setting = Setting(options.steps, named_dtype(options.dtype), torch.device(options.device), options.size)
    facts = machine()
    print(", ".join(f"{name} {value}" for name, value in facts.items() if name != "backends"))
    settings = {
        "steps": options.steps,
        "dense steps taken": options.dense_steps or options.steps,
        "dtype": options.dtype,
        "size": setting.size,
        "mask": f"{100 * setting.mask.mean():.1f} % rectangle",
        "device": options.device,
    }
    rows: list[Row] = []
    for name in options.rows:
        rows = with_work([*rows, *measure(name, setting, options.dense_steps)], setting)
        print_table([_shown(row) for row in rows])
        if options.json:  # after each row: a row takes minutes
            write_json(options.json, {"machine": facts, "settings": settings, "rows": rows})


if __name__ == "__main__":
    main()
