"""Which schedulers take a skipped step: those whose model outputs change smoothly from call to call."""

from __future__ import annotations

from typing import Any

__all__ = ["why_not_skipped"]

# Without noise of their own, each measured (docs/quality.md); those with two calls a step are among them.
SMOOTH = (
    "DDIMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
)


def why_not_skipped(scheduler: Any, eta: float = 0.0) -> str:
    """Why steps cannot be skipped under this scheduler; empty where they can.

    >>> from diffusers import DDIMScheduler, LCMScheduler
    >>> why_not_skipped(DDIMScheduler()), why_not_skipped(LCMScheduler())
    ('', 'LCMScheduler adds noise at each step, or is not known to go without')
    >>> why_not_skipped(DDIMScheduler(), eta=0.5)
    'DDIMScheduler adds noise at each step (eta 0.5)'
    """
    name = type(scheduler).__name__
    algorithm = str(getattr(scheduler.config, "algorithm_type", ""))
    if algorithm.startswith("sde"):
        return f"{name} adds noise at each step (algorithm_type {algorithm})"
    if name == "DDIMScheduler" and eta:
        return f"{name} adds noise at each step (eta {eta:g})"
    if name not in SMOOTH:
        return f"{name} adds noise at each step, or is not known to go without"
    return ""
