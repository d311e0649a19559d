"""What a run says about its pictures: a line for each, and all figures as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdxl.commands.settings import Settings
from sdxl.pictures.images import size_of, size_text
from sige.files import atomic_write

if TYPE_CHECKING:
    from sdxl.edits.result import Result

__all__ = ["figures", "summary", "write_figures"]


def summary(result: Result, settings: Settings) -> str:
    """The figures of one picture in words."""
    steps = result.steps
    taken = f"{steps[0]} steps" + "".join(f" and {count} of the refiner" for count in steps[1:])
    facts = size_text(size_of(result.image))
    if settings.only_masked is not None:
        facts += f", the part painted at {size_text(result.region.image_size)}"
    facts += f", seed {settings.seed}, {taken} at scale {settings.scale:g}"
    facts += f" in {result.seconds:.1f} s ({sum(steps) / result.seconds:.2f} steps/s, VAE included)"
    if settings.tome_ratio:
        facts += f", tokens merged at ratio {settings.tome_ratio:g}"
    passes = result.passes["unet"]
    if passes.dense == passes.calls:
        return facts
    return f"{facts}, {passes.describe()}, about {result.computed:.0%} of the dense work"


def figures(result: Result, settings: Settings, output: Path) -> dict[str, Any]:
    """The same figures by name."""
    height, width = size_of(result.image)
    return {
        "output": str(output),
        "height": height,
        "width": width,
        "painted": list(result.region.image_size),  # height and width that the models worked on
        "seed": settings.seed,
        "scale": settings.scale,
        "steps": list(result.steps),
        "seconds": result.seconds,
        "steps_per_second": sum(result.steps) / result.seconds,
        "passes": {name: asdict(passes) for name, passes in result.passes.items()},
        "computed": result.computed,
    }


def write_figures(pictures: list[dict[str, Any]], settings: Settings, loaded: float, path: Path) -> None:
    """Writes the figures of all pictures as JSON, whole or not at all."""
    said = {"model": settings.model, "run_type": settings.run_type, "device": settings.device, "dtype": settings.dtype}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps({**said, "loaded_seconds": loaded, "pictures": pictures}, indent=2) + "\n")
