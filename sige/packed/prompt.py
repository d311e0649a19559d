"""Keys and values of the prompt: computed once for each cross-attention, kept while prompt and layers stay the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn

from sige.errors import UnsupportedError
from sige.packed.module_state import State, weights

__all__ = ["PromptKeys"]

KeyValue = tuple[Tensor, Tensor]  # [B, tokens, Hd, D] each


@dataclass
class PromptKeys:
    """The projections of the prompt that cross-attention reads."""

    text: Tensor | None = None  # [B, tokens, C]
    _version: int = -1
    _kept: dict[nn.Module, tuple[State, KeyValue]] = field(default_factory=dict)  # by the layer that makes the keys

    def use(self, text: Tensor) -> None:
        """Takes the prompt of the next pass; forgets everything unless it is the very same, unchanged tensor."""
        version = -1 if text.is_inference() else text._version
        if self.text is not text or self._version != version or text.is_inference():
            self._kept.clear()
        self.text, self._version = text, version

    def project(self, key: nn.Module, value: nn.Module, make: Callable[[Tensor], KeyValue]) -> KeyValue:
        """What `make` returns for the prompt; made anew when the weights of the two layers have changed."""
        if self.text is None:
            raise UnsupportedError("encoder_hidden_states is missing: pass the prompt")
        state = weights([*key.modules(), *value.modules()])
        before = self._kept.get(key)
        if before is None or before[0] != state:
            self._kept[key] = state, make(self.text)
        return self._kept[key][1]

    def clear(self) -> None:
        """Forgets the prompt and everything made from it."""
        self.text, self._version = None, -1
        self._kept.clear()

    def __len__(self) -> int:
        """How many cross-attentions have their keys."""
        return len(self._kept)
