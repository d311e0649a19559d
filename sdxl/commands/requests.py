"""Makes a request from settings and from the files that they name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdxl.commands.inputs import Inputs
from sdxl.commands.rules import POLICY
from sdxl.commands.settings import Settings
from sdxl.edits.request import Request
from sdxl.edits.sampling import Sampling
from sige import policies

if TYPE_CHECKING:
    from sige import Policy

__all__ = ["make_policy", "make_request"]


def make_request(settings: Settings, inputs: Inputs) -> Request:
    """The request; a size that the settings leave to the model is left out."""
    sides = settings.height, settings.width
    takes_size = settings.task == "text2img" or settings.only_masked is not None
    size = (sides[0], sides[1]) if takes_size and sides[0] is not None and sides[1] is not None else None
    return Request(
        _sampling(settings),
        image=inputs.image,
        mask=inputs.mask,
        edited=inputs.edited,
        size=size,
        policy=make_policy(settings) if settings.sparse else None,
        refined=settings.refined,
        keep=settings.keep,
        grow=settings.grow or 0,
        mask_blur=settings.mask_blur or 0,
        match_edge=settings.match_edge or 0,
        only_masked=settings.only_masked,
        control=inputs.control,
    )


def make_policy(settings: Settings) -> Policy:
    """The policy that the settings name; what they leave out is the engine's default."""
    given = {name: getattr(settings, name) for name in POLICY if name != "policy"}
    policy: Any = policies.POLICIES[settings.policy or "temporal"]
    chosen: Policy = policy(**{name: value for name, value in given.items() if value not in (None, ())})
    return chosen


def _sampling(settings: Settings) -> Sampling:
    return Sampling(
        prompt=settings.prompt or "",
        negative_prompt=settings.negative_prompt,
        prompt_2=settings.prompt_2,
        negative_prompt_2=settings.negative_prompt_2,
        clip_skip=settings.clip_skip,
        control_scale=1.0 if settings.control_scale is None else settings.control_scale,
        steps=settings.steps,
        scale=settings.scale,
        eta=settings.eta,
        strength=settings.strength,
        seed=settings.seed,
        original_size=settings.original_size,
        target_size=settings.target_size,
        crops_coords_top_left=settings.crops_coords_top_left,
        negative_original_size=settings.negative_original_size,
        negative_target_size=settings.negative_target_size,
        negative_crops_coords_top_left=settings.negative_crops_coords_top_left,
        denoising_split=settings.denoising_split,
    )
