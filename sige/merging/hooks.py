"""The hooks that merge rows in a model's own forward: torch's public hooks, so no forward is replaced.

    time embedding   Clock.keep      the timestep of the pass
    transformer      Level.keep      the size of its level
    block            Block.match     the matching of the rows that come in       … Block.forget, after the block
    layer            Block.merge     the rows that the layer gets are merged     … Block.unmerge, after the layer

Packed passes call none of these modules but the time embedding, so they run as they would without merging.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sige.errors import UnsupportedError
from sige.merging.destinations import destinations, generator
from sige.merging.matching import Matching, match
from sige.merging.settings import Merging
from sige.sizes import Size

__all__ = ["Block", "Clock", "Level", "block_around", "is_merging", "merges"]

Args = tuple[Any, ...]
Kwargs = dict[str, Any]
ROWS = "hidden_states"  # diffusers' name for the argument


class Clock:
    """The timestep of the pass that runs."""

    def __init__(self) -> None:
        self.timestep = 0.0

    def keep(self, module: nn.Module, args: Args) -> None:
        """Before the time embedding: keeps the first timestep of the batch; on CUDA this waits for the device."""
        timesteps: Tensor = args[0]
        self.timestep = 0.0 if timesteps.is_meta else float(timesteps.flatten()[0])


class Level:
    """The size of the level that a transformer works at."""

    def __init__(self) -> None:
        self.size: Size = (0, 0)

    def keep(self, module: nn.Module, args: Args, kwargs: Kwargs) -> None:
        """Before a transformer: keeps height and width of its input [B, C, H, W]."""
        dense = args[0] if args else kwargs[ROWS]
        self.size = dense.shape[2], dense.shape[3]


class Block:
    """The merging in one transformer block; `matching` is that of the pass that runs."""

    def __init__(self, number: int, level: Level, clock: Clock, merging: Merging) -> None:
        self.number, self.level, self.clock, self.merging = number, level, clock, merging
        self.matching: Matching | None = None

    def match(self, module: nn.Module, args: Args, kwargs: Kwargs) -> None:
        """Before the block: matches the rows that come in, [B, N, C]."""
        rows: Tensor = args[0] if args else kwargs[ROWS]
        random = generator(self.clock.timestep, self.number) if self.merging.use_rand else None
        chosen = destinations(self.level.size, self.merging.sy, self.merging.sx, random)
        count = min(int(rows.shape[1] * self.merging.ratio), rows.shape[1] - len(chosen))
        self.matching = match(rows, chosen, count) if count else None

    def forget(self, module: nn.Module, args: Args, output: Any) -> None:
        """After the block: frees the matching."""
        self.matching = None

    def merge(self, module: nn.Module, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs] | None:
        """Before a layer: gives it merged rows."""
        if self.matching is None:
            return None
        rows: Tensor = args[0] if args else kwargs[ROWS]
        _check(self.matching, rows, kwargs)
        merged = self.matching.merge(rows)
        return ((merged, *args[1:]), kwargs) if args else (args, {**kwargs, ROWS: merged})

    def unmerge(self, module: nn.Module, args: Args, output: Tensor) -> Tensor:  # [B, N - R, C] -> [B, N, C]
        """After a layer: gives every position a row."""
        return self.restored(output)

    def restored(self, rows: Tensor) -> Tensor:  # [B, N - R, C] -> [B, N, C]
        """A row for every position, from merged rows that a layer inside has made: its keys, say."""
        return rows if self.matching is None else self.matching.unmerge(rows)


def _check(matching: Matching, rows: Tensor, kwargs: Kwargs) -> None:  # [B, N, C]
    """Refuses what does not fit the matching: rows in chunks, a mask over the positions."""
    if rows.shape[1] != matching.positions:
        raise UnsupportedError(
            f"tome: a layer got {rows.shape[1]} rows of {matching.positions}: switch off chunked feed-forward, or "
            "merge_mlp"
        )
    if kwargs.get("attention_mask") is not None and kwargs.get("encoder_hidden_states") is None:
        raise UnsupportedError("attention_mask: merged rows have no mask over positions: leave one of the two out")


def is_merging(hook: object) -> bool:
    """Says whether the hook is one of these."""
    return isinstance(getattr(hook, "__self__", None), Clock | Level | Block)


def merges(model: nn.Module) -> bool:
    """Says whether rows merge in the model's dense passes."""
    return any(is_merging(hook) for module in model.modules() for hook in module._forward_pre_hooks.values())


def block_around(layer: nn.Module) -> Block | None:
    """The block whose merging is around this layer; None where the layer's rows are not merged."""
    owners = [getattr(hook, "__self__", None) for hook in layer._forward_hooks.values()]
    return next((owner for owner in owners if isinstance(owner, Block)), None)
