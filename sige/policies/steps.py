"""Steps counts the denoiser's calls within one call of a pipeline."""

from __future__ import annotations

from typing import Any

from torch import nn

from sige.errors import ConfigError, UnsupportedError
from sige.models import Caller, find_caller

__all__ = ["Steps"]


class Steps:
    """The current step, and the pipeline whose step it is: the one that calls, whichever was enabled."""

    def __init__(self, enabled: Any) -> None:
        self.enabled = enabled  # the pipeline that was enabled: whose steps they are where the model is called by hand
        self.index = -1
        self.count = 0
        self.caller = Caller(enabled, by_hand=True)
        self._timesteps: Any = None  # the scheduler's, in this call of the pipeline

    def advance(self, module: nn.Module) -> bool:
        """Goes to the next step; says whether it is the first of a pipeline's call.

        Each call of a pipeline sets its scheduler's timesteps, a new tensor. So a call that ended early, by an
        exception or an interrupt, is never taken for the beginning of the next.
        """
        caller = find_caller(module)
        if caller is not None and caller.crops:
            raise UnsupportedError(
                "padding_mask_crop: the pipeline works on a crop around the mask, and the region is of the whole "
                "picture: leave padding_mask_crop out, or crop picture and mask yourself before the call"
            )
        self.caller = caller or self._by_hand()
        begins = self._begins(self.caller)
        self.index += 1
        return begins

    @property
    def scheduler(self) -> Any:
        """The scheduler of the pipeline that calls."""
        return self.caller.pipe.scheduler

    def _begins(self, caller: Caller) -> bool:
        scheduled = caller.timesteps
        if scheduled is self._timesteps and self.index + 1 < self.count:
            return False
        self._timesteps, self.index, self.count = scheduled, -1, caller.count
        return True

    def _by_hand(self) -> Caller:
        """A loop of the user's own over the enabled pipeline's timesteps."""
        if getattr(self.enabled.scheduler, "timesteps", None) is None:
            raise ConfigError("edit: a policy follows the timesteps of the pipeline's scheduler, and it has none yet")
        return Caller(self.enabled, by_hand=True)
