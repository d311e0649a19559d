"""What the residual blocks add for the time: for each block one vector per sample, which its first convolution adds."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from sige.ops import MOST_TABLES, time_table
from sige.packed.linear import is_plain
from sige.packed.resnet import ResnetBlock

__all__ = ["TimeTable"]


class TimeTable:
    """The layers of all blocks that read the time. Plain ones run in one call, which reads their weights in place."""

    def __init__(self, blocks: Sequence[ResnetBlock]) -> None:
        self.blocks = [block for block in blocks if block.time is not None]

    def __call__(self, time: Tensor) -> dict[ResnetBlock, Tensor]:  # [B, E], after its SiLU -> [B, C_out] each
        """The bias of each block's first convolution: its own, and what the time adds."""
        plain = [(block, block.time) for block in self.blocks if isinstance(block.time, nn.Linear) and _fits(block)]
        biases: dict[ResnetBlock, Tensor] = {}
        for first in range(0, len(plain), MOST_TABLES):
            biases |= self._in_one_call(time, plain[first : first + MOST_TABLES])
        for block in self.blocks:
            if block not in biases and block.time is not None:
                own = block.first.conv.bias
                biases[block] = block.time(time) if own is None else block.time(time) + own
        return biases

    @staticmethod
    def _in_one_call(time: Tensor, layers: list[tuple[ResnetBlock, nn.Linear]]) -> dict[ResnetBlock, Tensor]:
        blocks, linears = zip(*layers, strict=True)
        weights, biases = [layer.weight for layer in linears], [layer.bias for layer in linears]
        table = time_table(time, weights, biases, [block.first.conv.bias for block in blocks])
        return dict(zip(blocks, table.split([len(weight) for weight in weights], dim=1), strict=True))


def _fits(block: ResnetBlock) -> bool:
    """Says whether the op can read the block's layer: no adapter, no hook, biases on both."""
    layer = block.time
    return layer is not None and is_plain(layer) and layer.bias is not None and block.first.conv.bias is not None
