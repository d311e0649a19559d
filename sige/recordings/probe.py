"""A probe: what a recording keeps of one layer, and the hook that fills it during a dense pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sige.ops import group_stats
from sige.recordings.recording import ComponentRecording

__all__ = ["Probe"]


@dataclass(frozen=True)
class Probe:
    """The input or the output of a module, kept as rows under a key; with `groups`, the sums of its groups too."""

    key: str
    module: nn.Module
    of: Literal["input", "output"]
    groups: int = 0
    restore: Callable[[Tensor], Tensor] | None = None  # makes a row for every position, where rows were merged

    def attach(self, part: ComponentRecording) -> RemovableHandle:
        """Hooks the module, so that its next call fills `part`; the caller removes the hook."""
        if self.of == "output":
            return self.module.register_forward_hook(lambda module, args, output: self._keep(output, part))

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._keep(args[0] if args else kwargs["hidden_states"], part)

        return self.module.register_forward_pre_hook(before, with_kwargs=True)

    def _keep(
        self,
        value: Tensor,  # [B, C, H, W] or [B, M, C]
        part: ComponentRecording,
    ) -> None:
        rows = _as_rows(value.detach())
        if self.restore is not None:
            rows = self.restore(rows)
        part.rows[self.key] = rows
        if self.groups:
            part.stats[self.key] = group_stats(rows, self.groups)


def _as_rows(value: Tensor) -> Tensor:  # [B, C, H, W] or [B, M, C] -> [B, M, C]
    """A view where the tensor is channels-last already, a copy where not."""
    if value.dim() == 4:
        value = value.permute(0, 2, 3, 1).flatten(1, 2)
    return value.contiguous()
