"""The schedulers by name, and the default of each kind. Importable without torch."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sdxl.errors import InputError

__all__ = ["SCHEDULERS", "default_scheduler", "make_scheduler", "takes_eta"]


@dataclass(frozen=True)
class Choice:
    """A diffusers class, and the options that it gets besides the checkpoint's own noise schedule."""

    name: str
    changes: dict[str, Any] = field(default_factory=dict)


SCHEDULERS = {
    "ddim": Choice("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}),
    "euler": Choice("EulerDiscreteScheduler"),
    "euler-ancestral": Choice("EulerAncestralDiscreteScheduler"),
    "dpmpp-2m": Choice("DPMSolverMultistepScheduler"),
    "dpmpp-2m-karras": Choice("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "unipc": Choice("UniPCMultistepScheduler"),
    "heun": Choice("HeunDiscreteScheduler"),
    "lcm": Choice("LCMScheduler"),
}
TURBO = {"timestep_spacing": "trailing"}  # few steps must begin at the noisiest timestep


def default_scheduler(kind: str, config: Mapping[str, Any] | None = None) -> str:
    """The scheduler of a kind: DDIM, but for a turbo the one that its checkpoint names, which it was distilled for.

    >>> default_scheduler("sdxl-base"), default_scheduler("sdxl-turbo")
    ('ddim', 'euler-ancestral')
    """
    if "turbo" not in kind:
        return "ddim"
    named = (config or {}).get("_class_name")
    plain = (name for name, choice in SCHEDULERS.items() if choice.name == named)
    return next(plain, "euler-ancestral")


def make_scheduler(name: str | None, kind: str, config: dict[str, Any]) -> Any:
    """The named scheduler, or the family's default, on the checkpoint's noise schedule."""
    from sdxl.checkpoint.models import build_scheduler  # torch

    name = name or default_scheduler(kind, config)
    if name not in SCHEDULERS:
        raise InputError(f"scheduler: got {name!r}, expected one of {', '.join(SCHEDULERS)}", "scheduler")
    choice = SCHEDULERS[name]
    changes = choice.changes | (TURBO if "turbo" in kind else {})
    return build_scheduler(choice.name, {**config, **changes}, "scheduler: the checkpoint's config")


def takes_eta(scheduler: Any) -> bool:
    """Says whether a step of the scheduler reads eta."""
    return "eta" in inspect.signature(scheduler.step).parameters
