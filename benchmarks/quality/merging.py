"""Token merging in the ways that are compared: in dense passes, and in the keys that packed passes read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sige import tome
from sige.merging.destinations import destinations
from sige.merging.matching import match
from sige.packed import attention

__all__ = ["fewer_keys", "merged"]

CELL = 4  # inactive positions in a row, of which one is a destination


@contextmanager
def merged(pipe: Any, ratio: float, level: int) -> Iterator[None]:
    """Inside, the UNet's dense passes merge `ratio` of the rows, down to a level."""
    tome.apply(pipe, ratio, max_downsample=level)
    try:
        yield
    finally:
        tome.remove(pipe)


@contextmanager
def fewer_keys(ratio: float) -> Iterator[None]:
    """Inside, packed self-attention merges `ratio` of the recorded keys and values that it reads: a prototype.

    It matches anew in each pass. An engine that does this would match once for each recording, and keep fewer rows.
    """
    attend: Callable[..., Tensor] = vars(attention)["block_attention"]

    def on_fewer(
        query: Tensor,  # [B, N, C]
        key: Tensor,  # [B, N, C]
        value: Tensor,  # [B, N, C]
        recorded_key: Tensor,  # [B, M, C]
        recorded_value: Tensor,  # [B, M, C]
        index: Tensor,  # int32 [H * W]
        heads: int,
    ) -> Tensor:  # [B, N, C]
        if recorded_key is key:  # attention to the prompt, which has no recorded rows
            return attend(query, key, value, recorded_key, recorded_value, index, heads)
        read = index[index >= key.shape[1]].long() - key.shape[1]  # recorded rows
        count = min(int(len(read) * ratio), len(read) - -(-len(read) // CELL))
        if count <= 0:
            return attend(query, key, value, recorded_key, recorded_value, index, heads)
        keys, values = (rows.index_select(1, read) for rows in (recorded_key, recorded_value))
        chosen = destinations((1, len(read)), 1, CELL, np.random.default_rng(len(read)))
        matching = match(keys, chosen, count)
        keys, values = (matching.merge(rows) for rows in (keys, values))
        every = torch.arange(key.shape[1] + keys.shape[1], dtype=torch.int32, device=key.device)
        return attend(query, key, value, keys, values, every, heads)

    vars(attention)["block_attention"] = on_fewer
    try:
        yield
    finally:
        vars(attention)["block_attention"] = attend
