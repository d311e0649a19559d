"""Time from a mask to all index tensors that a pass of SDXL's UNet or VAE reads, and to each gather map.

    python -m benchmarks.geometry [--size 1024] [--runs 15] [--levels] [--json OUT]

Each repetition starts from a new Region without levels and maps. The time is that of the process, so other work on the
machine adds little to it; a figure is a median where it does not say that it is the least.
"""

import argparse
import gc
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import numpy as np
import torch

import sige
from benchmarks.harness import machine, print_table, write_json
from sige.geometry import GatherMap, Geometry, gather_map
from sige.models.component import sample_size
from sige.packed.layout import IndexName, Layout
from sige.passes import names_read
from sige.positions import BoolArray
from sige.profiling.models import build
from sige.region import Region

BUDGET_MS = {"unet": 5, "vae-decoder": 20, "vae-encoder": 20}  # of a new region, for masks of about 10 %
MODELS = {"unet": "sdxl-base", "vae-decoder": "vae-decoder", "vae-encoder": "vae-encoder"}

Layer = tuple[str, Geometry, int]  # name, geometry, image size / input size


def sdxl_layers() -> list[Layer]:
    """The distinct layer geometries of UNet (image / 8, / 16, / 32) and VAE (image / 1 to / 8)."""
    conv1x1, conv3x3 = Geometry.conv1x1(), Geometry.conv3x3()
    layers: list[Layer] = []
    for step in (8, 16, 32):
        layers += [("unet conv1x1", conv1x1, step), ("unet conv3x3", conv3x3, step)]
    layers += [("unet down", Geometry.downsample(), step) for step in (8, 16)]
    layers += [("unet up", Geometry.upsample_conv3x3(), step) for step in (32, 16)]
    # Encoder and decoder use the same 3x3 and 1x1 maps, and share those at image / 8 with the UNet.
    for step in (4, 2, 1):
        layers += [("vae conv1x1", conv1x1, step), ("vae conv3x3", conv3x3, step)]
    layers += [("decoder up", Geometry.upsample_conv3x3(), step) for step in (8, 4, 2)]
    layers += [("encoder down", Geometry.downsample_asymmetric(), step) for step in (1, 2, 4)]
    return layers


def rectangle(size: int) -> BoolArray:  # [size, size], 10.3 %
    mask = np.zeros((size, size), dtype=bool)
    mask[round(0.29 * size) : round(0.64 * size), round(0.293 * size) : round(0.587 * size)] = True
    return mask


def disc(size: int) -> BoolArray:  # [size, size], 11.6 %
    y, x = np.ogrid[:size, :size]
    radius = math.sqrt(0.116 / math.pi) * size
    return np.asarray((y - 0.45 * size) ** 2 + (x - 0.55 * size) ** 2 < radius**2)


def strokes(size: int) -> BoolArray:  # [size, size], lines of one to three pixels from edge to edge
    mask = np.zeros((size, size), dtype=bool)
    diagonal = np.arange(size)
    for thickness in range(3):
        mask[diagonal, np.minimum(diagonal // 2 + size // 4 + thickness, size - 1)] = True
        mask[size // 3, :] = mask[:, size // 5] = True
    wave = size // 2 + size // 6 * np.sin(diagonal / size * 4 * math.pi)
    mask[wave.astype(int), diagonal] = True
    return mask


def large(size: int) -> BoolArray:  # [size, size], a square of 40 %
    mask = np.zeros((size, size), dtype=bool)
    mask[round(0.184 * size) : round(0.816 * size), round(0.184 * size) : round(0.816 * size)] = True
    return mask


def full(size: int) -> BoolArray:  # [size, size]
    return np.ones((size, size), dtype=bool)


MASKS: dict[str, Callable[[int], BoolArray]] = {
    "rectangle": rectangle,
    "disc": disc,
    "strokes": strokes,
    "large": large,
    "full": full,
}


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    """Milliseconds that the action took, and what it returned."""
    start = process_time()
    result = action()
    return (process_time() - start) * 1e3, result


def names_of(model: str, size: int) -> tuple[IndexName, ...]:
    """What a packed pass of the model reads, found by a pass on the meta device, where nothing is computed."""
    subject = build(model, (size, size))
    with torch.no_grad(), sige.enable(subject.target) as handle:
        with handle.record():
            subject()
        with handle.edit(Region.full(size, size)):
            subject()
        attachment = next(one for one in handle.attachments.values() if one.module is subject.module)
        return names_read(attachment.component(), sample_size(subject.sample))


def measure_new(mask: BoolArray, dilation: int, names: tuple[IndexName, ...], runs: int) -> dict[str, Any]:
    """Time and memory from a mask to the index tensors of these names."""
    times, megabytes = [], 0.0
    for _ in range(runs + 1):
        gc.collect()
        spent, layout = timed(lambda: Layout(Region.from_mask(mask, dilation=dilation), torch.device("cpu"), names))
        times.append(spent)
        megabytes = sum(layout.read(name).nbytes for name in names) / 1e6
        del layout  # before the next run, which then finds the same free memory
    return {"least_ms": min(times[1:]), "median_ms": median(times[1:]), "megabytes": megabytes}


def new_regions(size: int, runs: int) -> list[dict[str, Any]]:
    """A row for each mask, dilation and component."""
    rows = []
    for component, model in MODELS.items():
        names = names_of(model, size)
        for mask, draw in MASKS.items():
            for dilation in (0, 1):
                found = measure_new(draw(size), dilation, names, runs)
                rows.append({"component": component, "mask": mask, "dilation": dilation, **found})
    return rows


def measure(mask: BoolArray, runs: int) -> dict[str, Any]:
    """Medians over fresh regions: the region alone, each layer's map, and the total."""
    size = len(mask)
    layers = [(name, geometry, -(-size // step)) for name, geometry, step in sdxl_layers()]
    regions: list[float] = []
    totals: list[float] = []
    per_layer: list[list[float]] = [[] for _ in layers]
    maps: list[GatherMap] = []
    for _ in range(runs + 1):
        gc.collect()
        spent, region = timed(partial(Region.from_mask, mask))
        regions.append(spent)
        totals.append(spent)
        maps = []
        for times, (_, geometry, side) in zip(per_layer, layers, strict=True):
            spent, found = timed(partial(gather_map, region, geometry, side, side))
            maps.append(found)
            times.append(spent)
            totals[-1] += spent
    return {
        "pixels": float(mask.mean()),
        "latent": region.ratio(-(-size // 8), -(-size // 8)),
        "region_ms": median(regions[1:]),  # the first run warms the allocator up
        "total_ms": median(totals[1:]),
        "spread_ms": [min(totals[1:]), max(totals[1:])],
        "mbytes": sum(found.index.nbytes + found.halo.nbytes for found in maps) / 2**20,
        "levels": [
            {"layer": name, "input": side, "rows": len(found.index), "ms": median(times[1:])}
            for (name, _, side), found, times in zip(layers, maps, per_layer, strict=True)
        ],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, default=1024, help="side of the image in pixels")
    parser.add_argument("--runs", type=int, default=15, help="runs per mask, after one to warm up")
    parser.add_argument("--levels", action="store_true", help="show each layer's map too")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write figures and settings to OUT")
    options = parser.parse_args(arguments)
    if min(options.runs, options.size) < 1:
        parser.error("--runs and --size must be at least 1")

    facts = machine()
    print(", ".join(f"{name} {value}" for name, value in facts.items() if name != "backends"))
    regions = new_regions(options.size, options.runs)
    print(f"A new region: {options.size} x {options.size} image, {options.runs} runs")
    print_table(regions)
    print(", ".join(f"budget of {name}: {budget} ms" for name, budget in BUDGET_MS.items()))
    print(f"\nGather maps: dilation 1, {len(sdxl_layers())} maps")
    results = {name: measure(draw(options.size), options.runs) for name, draw in MASKS.items()}
    print_table([_summary(name, result) for name, result in results.items()])
    if options.levels:
        for name, result in results.items():
            print_table([{"mask": name, **level} for level in result["levels"]])
    if options.json:
        settings = {"size": options.size, "runs": options.runs, "dilation": 1, "budget_ms": BUDGET_MS}
        content = {"machine": facts, "settings": settings, "new_region": regions, "results": results}
        write_json(options.json, content)


def _summary(name: str, result: dict[str, Any]) -> dict[str, Any]:
    low, high = result["spread_ms"]
    return {
        "mask": name,
        "pixels": f"{result['pixels']:.1%}",
        "latent": f"{result['latent']:.1%}",
        "region ms": result["region_ms"],
        "total ms": result["total_ms"],
        "min..max": f"{low:.1f}..{high:.1f}",
        "MiB": result["mbytes"],
    }


if __name__ == "__main__":
    main()
