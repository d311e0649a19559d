"""Finds the pipeline that is calling a model.

A UNet may serve several pipelines, each with a scheduler of its own (`AutoPipelineForInpainting.from_pipe`). Only the
call stack tells whose step a call is: the nearest frame whose `self` is a pipeline that holds this very module.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from numbers import Real
from types import FrameType
from typing import Any

from diffusers import DiffusionPipeline
from torch import nn

__all__ = ["Caller", "find_caller"]


@dataclass(frozen=True)
class Caller:
    """The pipeline that calls, and what its call was given."""

    pipe: Any
    crops: bool = False  # the picture around the mask
    eta: float = 0.0  # of DDIM: the share of noise that each step adds
    by_hand: bool = False  # a loop of the user's own calls, with the pipeline's scheduler

    @property
    def is_guided(self) -> bool:
        """Says whether the second half of the batch sees the prompt, and the first half does not."""
        return not self.by_hand and bool(getattr(self.pipe, "do_classifier_free_guidance", False))

    @property
    def timesteps(self) -> Any:  # [steps]
        """The scheduler's timesteps: a new tensor in each call of a pipeline."""
        return self.pipe.scheduler.timesteps

    @property
    def count(self) -> int:
        """The number of steps of this call: `strength`, or a split between models, leaves timesteps out."""
        return int(getattr(self.pipe, "num_timesteps", 0) or len(self.timesteps))


def find_caller(module: nn.Module) -> Caller | None:
    """The pipeline that calls the module, None when it is called by hand; takes some microseconds."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_varnames[:1] == ("self",):
            owner = frame.f_locals.get("self")
            if isinstance(owner, DiffusionPipeline) and any(part is module for part in vars(owner).values()):
                given = frame.f_locals
                eta = given.get("eta")
                crops = given.get("padding_mask_crop") is not None
                return Caller(owner, crops, float(eta) if isinstance(eta, Real) else 0.0)
        frame = frame.f_back
    return None
