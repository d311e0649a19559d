"""The state of a module that its output depends on: its parts, hooks and weights, and the settings of adapters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from sige.merging.hooks import is_merging

__all__ = ["State", "Watch", "is_hooked", "weights"]

State = list[object]

_ADAPTER_SETTINGS = ("scaling", "_active_adapter", "_disable_adapters", "merged_adapters")  # of a peft layer


def is_hooked(module: nn.Module) -> bool:
    """Says whether the module has a hook or a replaced forward, so that a call does more than its class says.

    The hooks that merge rows do not count: they are for dense passes, and a packed pass leaves them out on purpose.
    """
    if "forward" in module.__dict__:
        return True
    hooks = module._forward_hooks, module._forward_pre_hooks
    return any(not is_merging(hook) for some in hooks for hook in some.values())


def _hooks(space: dict[str, Any]) -> list[object]:
    """The numbers of a module's hooks, and whether its forward is replaced; empty where nothing is."""
    if space["_forward_hooks"] or space["_forward_pre_hooks"] or "forward" in space:
        return [*space["_forward_hooks"], *space["_forward_pre_hooks"], "forward" in space]
    return []


def weights(modules: Iterable[nn.Module]) -> State:
    """The state of the modules' weights: their parameters, how often each was written to, the settings of adapters.

    PyTorch counts the writes to a parameter, but not those through `parameter.data`.
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
    """Finds out whether a model has changed since the watch was made; takes one millisecond for SDXL's UNet.

    The handle asks at every call inside a context, so the watch keeps flat lists and compares identities.
    """

    def __init__(self, root: nn.Module) -> None:
        modules = list(root.modules())
        self._root = root.__dict__
        # For each module: its namespace, its parts, the class of its processor, and the result of `_does`.
        self._seen = [(m.__dict__, dict(m._modules), type(m.__dict__.get("processor")), self._does(m)) for m in modules]
        self._parameters = [(m._parameters, name, p) for m in modules for name, p in m._parameters.items()]
        self._weighted = [p for _, _, p in self._parameters if p is not None and not p.is_inference()]
        self._adapters = [m for m in modules if "merged_adapters" in m.__dict__]
        self._weights = self._read_weights()

    def _does(self, module: nn.Module) -> tuple[bool, list[object], bool]:
        """Training mode, hooks and compilation. The root's hooks and replaced forward are left out: that is ours."""
        hooks = [] if module.__dict__ is self._root else _hooks(module.__dict__)
        return module.training, hooks, module._compiled_call_impl is not None

    def has_other_parts(self) -> bool:
        """Says whether modules, processors, hooks or modes have changed, so that the model must be walked again."""
        root = self._root
        for space, parts, processor, (training, hooks, compiled) in self._seen:
            if (
                space["_modules"] != parts
                or space["training"] is not training
                or type(space.get("processor")) is not processor
                or (space.get("_compiled_call_impl") is not None) is not compiled
            ):
                return True
            if space is not root and _hooks(space) != hooks:
                return True
        return False

    def has_other_weights(self) -> bool:
        """Says whether parameters were replaced or written to, or settings of adapters changed, since the last call."""
        if any(kept.get(name) is not parameter for kept, name, parameter in self._parameters):
            return True
        before, self._weights = self._weights, self._read_weights()
        return before != self._weights

    def _read_weights(self) -> tuple[list[int], list[Any]]:
        return [p._version for p in self._weighted], [_settings(adapter) for adapter in self._adapters]
