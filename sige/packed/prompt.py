"""Keys and values of the prompt, which each cross-attention computes once and keeps until prompt or layers change."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sige.errors import UnsupportedError
from sige.packed.module_state import State, weights

__all__ = ["KeyValue", "Mark", "PromptKeys"]

KeyValue = tuple[Tensor, Tensor]  # [B, tokens, C] each


class Mark:
    """Stands for one prompt: as long as `PromptKeys.mark` is the same object, so are text, keys and values."""


@dataclass
class PromptKeys:
    """The keys and values of the prompt that the cross-attentions read."""

    text: Tensor | None = None  # [B, tokens, C]
    mark: Mark = field(default_factory=Mark)
    _version: int = -1
    _copy: Tensor | None = None  # of a prompt that was made in inference mode
    _kept: dict[nn.Module, tuple[State, KeyValue]] = field(default_factory=dict)  # by the layer that makes the keys

    def use(self, text: Tensor) -> None:
        """Sets the prompt of the next pass; forgets all keys and values unless it is the same, unchanged tensor."""
        if text.is_inference():  # PyTorch does not count writes to it
            if self.text is not text or self._copy is None or not torch.equal(self._copy, text):
                self._forget()
                on_host = text.device.type == "cpu"  # elsewhere a comparison would wait for the device
                self._copy = text.clone() if on_host else None
            self.text = text
            return
        if self.text is not text or self._version != text._version:
            self._forget()
        self.text, self._version = text, text._version

    def project(self, key: nn.Module, value: nn.Module, make: Callable[[Tensor], KeyValue]) -> KeyValue:
        """The keys and values that `make` returns for the prompt; made again after the weights of the layers change."""
        if self.text is None:
            raise UnsupportedError("encoder_hidden_states is missing: pass the prompt")
        state = weights([module for layer in (key, value) for module in _parts(layer)])
        before = self._kept.get(key)
        if before is None or before[0] != state:
            self._kept[key] = state, make(self.text)
        return self._kept[key][1]

    def clear(self) -> None:
        """Forgets the prompt with its keys and values."""
        self.text, self._version, self._copy = None, -1, None
        self._forget()

    def _forget(self) -> None:
        self._kept.clear()
        self.mark = Mark()

    def __len__(self) -> int:
        """The number of cross-attentions whose keys are kept."""
        return len(self._kept)


def _parts(layer: nn.Module) -> Iterable[nn.Module]:
    """The modules whose weights make the layer's product: itself, or those of an adapter."""
    return (layer,) if type(layer) is nn.Linear else layer.modules()
