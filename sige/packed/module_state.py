"""The state of a module that its output depends on: its parts, hooks and weights, and the settings of adapters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from operator import attrgetter, contains, eq, is_, itemgetter
from typing import Any

from torch import Tensor, nn

from sige.merging.hooks import is_merging
from sige.recordings import is_tap

__all__ = ["State", "Watch", "is_hooked", "weights"]

State = list[object]

_MODULES, _TRAINING, _VERSION = itemgetter("_modules"), itemgetter("training"), attrgetter("_version")
_ADAPTER_SETTINGS = ("scaling", "_active_adapter", "_disable_adapters", "merged_adapters")  # of a peft layer


def is_hooked(module: nn.Module) -> bool:
    """Says whether the module has a hook or a replaced forward, so that a call does more than its class says.

    The hooks that merge rows, and taps, do not count: a packed pass leaves them out on purpose.
    """
    if "forward" in module.__dict__:
        return True
    hooks = module._forward_hooks, module._forward_pre_hooks
    return any(not (is_merging(hook) or is_tap(hook)) for some in hooks for hook in some.values())


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
    """Finds out whether a model has changed since the watch was made; takes two milliseconds for SDXL's UNet.

    The handle asks at every call inside a context, so the watch keeps flat lists, which Python's own loops compare.
    """

    def __init__(self, root: nn.Module) -> None:
        modules = list(root.modules())
        self._spaces = [module.__dict__ for module in modules]
        self._children = [module._modules for module in modules]
        self._seen_children = [dict(children) for children in self._children]
        self._with_processor = [module.__dict__ for module in modules if "processor" in module.__dict__]
        others = modules[1:]  # the root's own hooks and replaced forward are the handle's business
        self._hooks = [hooks for m in others for hooks in (m._forward_hooks, m._forward_pre_hooks)]
        self._other_spaces = self._spaces[1:]
        self._seen = self._read()
        self._holders = [m._parameters for m in modules for _ in m._parameters]
        self._names = [name for m in modules for name in m._parameters]
        self._parameters = [parameter for m in modules for parameter in m._parameters.values()]
        self._weighted = [p for p in self._parameters if p is not None and not p.is_inference()]
        self._adapters = [m for m in modules if "merged_adapters" in m.__dict__]
        self._weights = self._read_weights()

    def has_other_parts(self) -> bool:
        """Says whether modules, processors, hooks or modes have changed, so that the model must be walked again."""
        same_parts = all(map(eq, self._children, self._seen_children))
        return not same_parts or self._read() != self._seen

    def _read(self) -> tuple[Sequence[object], ...]:
        """Whose parts are others, training modes, compilation, processors, replaced forwards, hooks: in lists."""
        parts = list(map(is_, map(_MODULES, self._spaces), self._children))
        training = list(map(_TRAINING, self._spaces))
        compiled = list(map(dict.get, self._spaces, repeat("_compiled_call_impl")))
        processors = [type(space.get("processor")) for space in self._with_processor]
        replaced = list(map(contains, self._other_spaces, repeat("forward")))
        hooks = [tuple(hooks) for hooks in self._hooks if hooks]
        return parts, training, compiled, processors, replaced, hooks

    def has_other_weights(self) -> bool:
        """Says whether parameters were replaced or written to, or settings of adapters changed, since the last call."""
        now = map(dict.get, self._holders, self._names)
        if not all(map(is_, now, self._parameters)):
            return True
        before, self._weights = self._weights, self._read_weights()
        return before != self._weights

    def _read_weights(self) -> tuple[list[int], list[Any]]:
        return list(map(_VERSION, self._weighted)), [_settings(adapter) for adapter in self._adapters]
