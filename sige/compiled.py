"""Compiled passes: the functions that torch.compile makes of a module's forward, as a whole or block by block.

    whole       one function for dense passes, one for recorded ones; the rows that taps keep are outputs of the graph
    regional    the blocks that come again and again are compiled, a function for each kind; the rest runs as it is

Each function has a code object of its own, because torch keeps compiled code, and counts recompilations, by code
object. So what is compiled anew, after a module was replaced, finds no code of before, and its code goes with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from sige.errors import ConfigError, UnsupportedError

__all__ = ["Compilation", "Compiled"]

MODES = {  # mode -> the same without CUDA graphs
    "default": "default",
    "reduce-overhead": "default",
    "max-autotune": "max-autotune-no-cudagraphs",
    "max-autotune-no-cudagraphs": "max-autotune-no-cudagraphs",
}


# Of each function: torch's own limit, 8, is soon reached where blocks of one kind share a function. Each of dense and
# recorded passes, whole and half batches, sizes and numbers of attention heads takes one.
MOST_GRAPHS = 64


@dataclass(frozen=True)
class Compilation:
    """How passes are compiled.

    >>> Compilation("max-autotune", regional=True)
    Traceback (most recent call last):
    sige.errors.ConfigError: mode: got 'max-autotune' with regional, expected a mode without CUDA graphs: take 'default'
    """

    mode: str = "default"
    regional: bool = False
    backend: str = "inductor"

    def __post_init__(self) -> None:
        if self.mode not in tuple(MODES):
            raise ConfigError(f"mode: got {self.mode!r}, expected {', '.join(MODES)}")
        if not isinstance(self.regional, bool):
            raise ConfigError(f"regional: got {self.regional!r}, expected True or False")
        if self.backend != "inductor" and self.backend not in (known := _backends()):
            raise ConfigError(f"backend: got {self.backend!r}, expected one of torch.compile: {', '.join(known)}")
        if self.backend != "inductor" and self.mode != "default":
            raise ConfigError(
                f"mode: got {self.mode!r} with backend {self.backend!r}, expected 'default': only inductor has modes"
            )
        if self.regional and self.replays:
            # The next block of its kind would write to the memory that a recording keeps.
            raise ConfigError(
                f"mode: got {self.mode!r} with regional, expected a mode without CUDA graphs: take 'default'"
            )

    @property
    def replays(self) -> bool:
        """Says whether the mode replays CUDA graphs, each of which writes to the same memory every time."""
        return MODES[self.mode] != self.mode

    def function(self, of: Any, name: str, mode: str) -> Callable[..., Any]:
        """The compiled function, in one graph; `of` is a function of Python's."""
        code = of.__code__.replace(co_name=name)
        own = FunctionType(code, of.__globals__, name, of.__defaults__, of.__closure__)
        chosen = {"mode": mode} if self.backend == "inductor" else {}  # other backends have no modes
        return torch.compile(own, fullgraph=True, backend=self.backend, **chosen)  # type: ignore[call-overload, no-any-return]


class Compiled:
    """The compiled functions of one component."""

    def __init__(
        self,
        name: str,
        forward: Callable[..., Any],  # the model's own
        regions: Iterable[nn.Module],
        compilation: Compilation,
    ) -> None:
        self.name, self.compilation = name, compilation
        self._regions: list[tuple[nn.Module, Callable[..., Any]]] = []
        self._plain = forward
        if compilation.regional:
            self._dense = self._recorded = forward
            self._compile(regions)
            return

        def run(*args: Any, **kwargs: Any) -> Any:
            return forward(*args, **kwargs)

        self._dense = compilation.function(run, "dense", compilation.mode)
        self._recorded = compilation.function(run, "recorded", MODES[compilation.mode])

    def _compile(self, regions: Iterable[nn.Module]) -> None:
        """Makes calls of the blocks go to the compiled function of their kind, as `block.compile()` would.

        A kind is a class with the shapes of its weights: SDXL has a dozen kinds of residual blocks, and torch tries the
        graphs of a function one after the other.
        """
        functions: dict[object, Callable[..., Any]] = {}
        for block in regions:
            kind = type(block), tuple(parameter.shape for parameter in block.parameters())
            if kind not in functions:
                functions[kind] = self.compilation.function(_call, type(block).__name__, self.compilation.mode)
            call = partial(functions[kind], block)
            block._compiled_call_impl = call
            self._regions.append((block, call))

    def dense(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Runs a dense pass."""
        with self._in_one_graph():
            if not self.compilation.replays:
                return self._dense(*args, **kwargs)
            torch.compiler.cudagraph_mark_step_begin()
            result = self._dense(*args, **kwargs)
        return _pytree.tree_map_only(Tensor, torch.clone, result)  # the next replay writes to these tensors

    def recorded(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Runs a dense pass whose taps keep what they see; without CUDA graphs, which would write to the recording."""
        with self._in_one_graph():
            return self._recorded(*args, **kwargs)

    def blocks(self, *args: Any, **kwargs: Any) -> Any:
        """Runs a pass that is not compiled as a whole; with `regional` its blocks are."""
        with self._in_one_graph():
            return self._plain(*args, **kwargs)

    @contextmanager
    def _in_one_graph(self) -> Iterator[None]:
        """Inside, what torch.compile cannot take becomes an error of ours."""
        from torch._dynamo import config  # takes a second to import
        from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

        try:
            with config.patch(recompile_limit=MOST_GRAPHS):
                yield
        except FailOnRecompileLimitHit as error:
            raise UnsupportedError(
                f"{self.name}: more than {MOST_GRAPHS} kinds of inputs came, each of which compiles anew: call "
                "handle.compile() again to begin from none, or handle.compile(None) to run it uncompiled"
            ) from error
        except TorchDynamoException as error:
            raise UnsupportedError(
                f"{self.name}: torch.compile cannot take this pass in one graph ({_reason(error)}): call "
                "handle.compile(None) to run it uncompiled"
            ) from error

    def remove(self) -> None:
        """Gives the blocks their own calls back."""
        for block, call in self._regions:
            if block._compiled_call_impl is call:
                block._compiled_call_impl = None
        self._regions.clear()


def _call(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return block._call_impl(*args, **kwargs)


def _reason(error: Exception) -> str:
    """What torch says in its first line; a backend's error says there that it is one, and why in the next."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2]) if lines[0].endswith("raised:") else lines[0]


def _backends() -> list[str]:
    from torch._dynamo import list_backends  # takes a second to import

    return list_backends(exclude_tags=())
