"""Which schedulers take a skipped step: those whose model outputs change smoothly from call to call."""

from __future__ import annotations

from typing import Any

__all__ = ["why_not_skipped"]

# One call a step and no noise of their own.
SMOOTH = (
    "DDIMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "EulerDiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
)


def why_not_skipped(scheduler: Any, eta: float = 0.0) -> str:
    """Why steps cannot be skipped under this scheduler; empty where they can.

    >>> from diffusers import DDIMScheduler, HeunDiscreteScheduler
    >>> why_not_skipped(DDIMScheduler()), why_not_skipped(HeunDiscreteScheduler())
    ('', 'HeunDiscreteScheduler calls the model 2 times a step')
    >>> why_not_skipped(DDIMScheduler(), eta=0.5)
    'DDIMScheduler adds noise at each step (eta 0.5)'
    """
    name = type(scheduler).__name__
    calls = getattr(scheduler, "order", 1)
    algorithm = str(getattr(scheduler.config, "algorithm_type", ""))
    if calls > 1:
        return f"{name} calls the model {calls} times a step"
    if algorithm.startswith("sde"):
        return f"{name} adds noise at each step (algorithm_type {algorithm})"
    if name == "DDIMScheduler" and eta:
        return f"{name} adds noise at each step (eta {eta:g})"
    if name not in SMOOTH:
        return f"{name} adds noise at each step, or is not known to go without"
    return ""
