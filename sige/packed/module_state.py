"""What a module's call depends on beside its input: its parts, its hooks, its weights, the settings of an adapter."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

__all__ = ["State", "Watch", "is_hooked", "weights"]

State = list[object]

_ADAPTER_SETTINGS = ("scaling", "_active_adapter", "_disable_adapters", "merged_adapters")  # of a peft layer


def is_hooked(module: nn.Module) -> bool:
    """Says whether a call does more than the module's class says: a hook, or a forward that was replaced."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__)


def weights(modules: Iterable[nn.Module]) -> State:
    """What the modules' products depend on: their parameters, how often each was written to, adapters' settings.

    PyTorch counts the writes; it does not see one that goes through `parameter.data`.
    """
    state: State = []
    for module in modules:
        state += [(id(parameter), _version(parameter)) for parameter in module._parameters.values()]
        if "merged_adapters" in module.__dict__:
            state.append(_settings(module))
    return state


def _version(parameter: Tensor | None) -> int:
    return -1 if parameter is None or parameter.is_inference() else parameter._version


def _settings(adapter: nn.Module) -> list[str]:
    return [repr(adapter.__dict__.get(name)) for name in _ADAPTER_SETTINGS]


class Watch:
    """Tells whether a model has changed since the watch was made: one millisecond for SDXL's UNet.

    It is asked at every call inside a context, so it keeps flat lists and compares identities.
    """

    def __init__(self, root: nn.Module) -> None:
        modules = list(root.modules())
        self._root = root.__dict__
        # A module's namespace, its parts, the kind of its processor, and what `_does` says of it.
        self._seen = [(m.__dict__, dict(m._modules), type(m.__dict__.get("processor")), self._does(m)) for m in modules]
        self._parameters = [(m._parameters, name, p) for m in modules for name, p in m._parameters.items()]
        self._weighted = [p for _, _, p in self._parameters if p is not None and not p.is_inference()]
        self._adapters = [m for m in modules if "merged_adapters" in m.__dict__]
        self._weights = self._read_weights()

    def _does(self, module: nn.Module) -> tuple[bool, bool, bool]:
        """Training mode, hooks, compilation; a forward that replaces the root's own is ours."""
        hooked = is_hooked(module) and module.__dict__ is not self._root
        return module.training, hooked, module._compiled_call_impl is not None

    def has_other_parts(self) -> bool:
        """Says whether modules, processors, hooks or modes are others: the model must be walked again."""
        root = self._root
        for space, parts, processor, (training, hooked, compiled) in self._seen:
            if (
                space["_modules"] != parts
                or space["training"] is not training
                or type(space.get("processor")) is not processor
                or (space.get("_compiled_call_impl") is not None) is not compiled
            ):
                return True
            if space is not root:
                now = space["_forward_hooks"] or space["_forward_pre_hooks"] or "forward" in space
                if bool(now) is not hooked:
                    return True
        return False

    def has_other_weights(self) -> bool:
        """Says whether a parameter was replaced or written to, or an adapter was set otherwise, since last asked."""
        if any(kept.get(name) is not parameter for kept, name, parameter in self._parameters):
            return True
        before, self._weights = self._weights, self._read_weights()
        return before != self._weights

    def _read_weights(self) -> tuple[list[int], list[Any]]:
        return [p._version for p in self._weighted], [_settings(adapter) for adapter in self._adapters]
