"""Token merging for the dense passes of a UNet: `apply` and `remove`.

    sige.tome.apply(pipe, ratio=0.5)    half of the rows merge around self-attention, at the finest level of SD 1.5
    sige.tome.remove(pipe)              the UNet is what it was, bit for bit

Where the UNet is enabled, dense and recorded passes run merged. A recording has a row for every position all the same,
so packed passes read it as any other (docs/tome.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch.utils.hooks import RemovableHandle

from sige.errors import ConfigError
from sige.merging.hooks import Block, Clock, Level
from sige.merging.settings import Merging
from sige.models.levels import transformers_of, unet_of

__all__ = ["Merging", "apply", "applied", "remove"]

_STATE = "_sige_tome"  # the UNet's attribute: it goes with copies of the UNet


@dataclass(frozen=True)
class _Applied:
    merging: Merging
    hooks: tuple[RemovableHandle, ...]


def apply(
    target: Any,  # a UNet2DConditionModel, or a pipeline that has one
    ratio: float = 0.5,
    max_downsample: int | None = 1,
    sx: int = 2,
    sy: int = 2,
    use_rand: bool = True,
    merge_attn: bool = True,
    merge_crossattn: bool = False,
    merge_mlp: bool = False,
) -> Merging:
    """Makes the UNet's dense passes merge rows, and returns the settings in force.

    Applying the same settings again changes nothing; others replace those before. `max_downsample=None` takes the
    finest level that has attention: 1 for SD 1.5 and 2.1, 2 for SDXL. With ratio 0 the UNet stays as it is.
    """
    unet = unet_of(target)
    transformers = transformers_of(unet)
    merging = Merging(ratio, max_downsample, sx, sy, use_rand, merge_attn, merge_crossattn, merge_mlp)
    merging = _placed(merging, min(width for _, width in transformers))
    if applied(unet) == merging:
        return merging
    remove(unet)
    vars(unet)[_STATE] = _Applied(merging, tuple(_hang(unet, transformers, merging)))
    return merging


def remove(target: Any) -> None:
    """Takes merging away; does nothing where there is none."""
    state = vars(unet_of(target)).pop(_STATE, None)
    for hook in () if state is None else state.hooks:
        hook.remove()


def applied(target: Any) -> Merging | None:
    """The settings in force; None where rows do not merge."""
    unet = getattr(target, "unet", target)
    unet = getattr(unet, "_orig_mod", unet)  # what torch.compile has wrapped
    state = vars(unet).get(_STATE)
    return None if state is None else state.merging


def _placed(merging: Merging, finest: int) -> Merging:
    """The settings with a level that has attention."""
    if merging.max_downsample is None:
        return replace(merging, max_downsample=finest)
    if merging.max_downsample < finest:
        raise ConfigError(
            f"max_downsample: got {merging.max_downsample}, but this UNet has no attention above level {finest}, so "
            f"nothing would merge: take {finest} or more"
        )
    return merging


def _hang(unet: Any, transformers: list[tuple[Any, int]], merging: Merging) -> Iterator[RemovableHandle]:
    """Hangs the hooks, and yields what removes each."""
    if merging.ratio == 0 or merging.max_downsample is None:
        return
    clock, number = Clock(), 0
    yield unet.time_proj.register_forward_pre_hook(clock.keep)
    for transformer, width in transformers:
        if width > merging.max_downsample:
            continue
        level = Level()
        yield _before(transformer, level.keep)
        for part in transformer.transformer_blocks:
            block, number = Block(number, level, clock, merging), number + 1
            yield _before(part, block.match)
            yield part.register_forward_hook(block.forget)
            for layer in _layers(part, merging):
                yield _before(layer, block.merge)
                yield layer.register_forward_hook(block.unmerge)


def _before(module: Any, hook: Callable[..., Any]) -> RemovableHandle:
    handle: RemovableHandle = module.register_forward_pre_hook(hook, with_kwargs=True)
    return handle


def _layers(part: Any, merging: Merging) -> list[Any]:
    """The layers of a transformer block that get merged rows."""
    choices = ((merging.merge_attn, part.attn1), (merging.merge_crossattn, part.attn2), (merging.merge_mlp, part.ff))
    return [layer for is_on, layer in choices if is_on and layer is not None]
