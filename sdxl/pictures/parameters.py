"""The `parameters` text of a PNG, in the form that A1111's web UI began and other programs read and write.

a red house
Negative prompt: blurry
Steps: 20, Sampler: DDIM, CFG scale: 7.5, Seed: 1, Size: 512x512, Model: sdxl, Denoising strength: 0.8
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["SAMPLERS", "as_parameters", "parameter_items", "read_parameters"]

SAMPLERS = {  # our names of schedulers -> theirs of samplers
    "ddim": "DDIM",
    "euler": "Euler",
    "euler-ancestral": "Euler a",
    "dpmpp-2m": "DPM++ 2M",
    "dpmpp-2m-karras": "DPM++ 2M Karras",
    "unipc": "UniPC",
    "heun": "Heun",
    "lcm": "LCM",
}
NEGATIVE = "Negative prompt:"
_LAST = re.compile(r"Steps: *\d+, ")  # what the last line begins with
_ITEM = re.compile(r'\s*([\w ,/+-]{1,60}?): *("(?:\\.|[^"\\])*"|[^,]*)(?:,|$)')
MOST_ITEMS = 100


def as_parameters(settings: Mapping[str, Any], size: tuple[int, int] | None = None) -> str:
    """The text of some settings and of the picture's height and width.

    >>> print(as_parameters({"prompt": "a house", "steps": 20, "scale": 7.5, "seed": 1, "scheduler": "ddim"}, (8, 16)))
    a house
    Steps: 20, Sampler: DDIM, CFG scale: 7.5, Seed: 1, Size: 16x8
    """
    scheduler = str(settings.get("scheduler") or "ddim")
    named: dict[str, Any] = {
        "Steps": settings.get("steps"),
        "Sampler": SAMPLERS.get(scheduler, scheduler),
        "CFG scale": settings.get("scale"),
        "Seed": settings.get("seed"),
        "Size": None if size is None else f"{size[1]}x{size[0]}",
        "Model": settings.get("model"),
        "Denoising strength": settings.get("strength"),
    }
    lines = [str(settings.get("prompt") or "")]
    if settings.get("negative_prompt"):
        lines.append(f"{NEGATIVE} {settings['negative_prompt']}")
    if named["Steps"] is not None:
        lines.append(", ".join(f"{name}: {_quoted(value)}" for name, value in named.items() if value is not None))
    return "\n".join(lines).replace("\0", "").encode("utf-8", "replace").decode()  # a flag may hold broken UTF-8


def _quoted(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r'[,:\n"]', text) else text


def read_parameters(text: str) -> dict[str, Any]:
    """The settings that a text says, by our names; what is missing or makes no sense is left out.

    >>> read_parameters("a house\\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 16x8")
    {'prompt': 'a house', 'steps': 20, 'scale': 7.0, 'seed': 1, 'scheduler': 'euler-ancestral'}
    """
    items = parameter_items(text)
    said: dict[str, Any] = {"prompt": items.pop("Prompt"), "negative_prompt": items.pop("Negative prompt")}
    for theirs, ours, kind in (("Steps", "steps", int), ("CFG scale", "scale", float), ("Seed", "seed", int),
                               ("Denoising strength", "strength", float)):  # fmt: skip
        number = _number(items.get(theirs, ""), kind)
        if number is not None:
            said[ours] = number
    ours_of = {theirs.lower(): ours for ours, theirs in SAMPLERS.items()}
    said["scheduler"] = ours_of.get(items.get("Sampler", "").lower())
    return {name: value for name, value in said.items() if value not in ("", None)}


def parameter_items(text: str) -> dict[str, str]:
    """What a text says, by the names that it has there; `Prompt` and `Negative prompt` are always among them.

    >>> parameter_items("a house\\nSteps: 20, Sampler: Euler a")
    {'Prompt': 'a house', 'Negative prompt': '', 'Steps': '20', 'Sampler': 'Euler a'}
    """
    lines = text.replace("\r", "").split("\n")
    last = lines.pop() if len(lines) > 1 and _LAST.match(lines[-1].strip()) else ""
    prompt, _, negative = "\n".join(lines).partition(NEGATIVE)
    items = {one[1]: one[2] for one in list(_ITEM.finditer(last))[:MOST_ITEMS]}
    prompts = {"Prompt": prompt.strip(), "Negative prompt": negative.strip()}
    return {**prompts, **items, **prompts}


def _number(text: str, kind: type[int] | type[float]) -> int | float | None:
    if len(text) > 20:
        return None
    try:
        number = kind(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
