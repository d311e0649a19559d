"""When a model's forward runs as it is, is recorded, or runs packed: enable(), the handle, its two contexts.

While enabled, `forward` of each component is a thin wrapper. Outside the contexts it calls diffusers' own forward;
inside `record()` the same, with hooks that keep what a packed pass will read; inside `edit()` the packed pass, or,
with an `EditConfig`, whatever its policy says for this step.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sige.config import EditConfig
from sige.errors import ConfigError, RecordingError, RegionError, UnsupportedError
from sige.packed.features import TextCache
from sige.packed.linear import is_hooked
from sige.passes import Call, Packing, record_pass
from sige.policies import Passes, Policy, make_policy
from sige.recording import Blend, Recording
from sige.region import Region

if TYPE_CHECKING:
    from sige.models import Component

__all__ = ["Handle", "enable", "handle_of"]

_ENTRY = threading.Lock()  # held while a context is entered, by whichever handle


def enable(target: Any, config: EditConfig | None = None) -> Handle:
    """Prepares a UNet2DConditionModel, an AutoencoderKL or a pipeline for recording and editing.

    With a configuration `handle.edit(region)` follows its policy through every step of the pipeline's calls; without
    one it reads what `handle.record()` has left.

    Raises `UnsupportedError` with path and class for a module that cannot run packed. Enabling twice returns the same
    handle, with the newer configuration. While enabled, convolution weights are kept channels-last, which packed and
    recorded passes read without a copy; `disable()` puts them back.
    """
    from sige.models import find_components, is_pipeline  # diffusers, which takes seconds to import

    components = find_components(target)
    pipe = target if is_pipeline(target) else None
    if config is not None and (pipe is None or all(component.name != "unet" for component in components)):
        raise ConfigError(
            f"enable: a policy follows the steps of a pipeline: got {type(target).__name__}, expected a pipeline with "
            "a UNet; leave the configuration out to record and edit by hand"
        )
    handle = _common_handle(components) or Handle(components)
    handle.pipe = pipe or handle.pipe
    handle.config = config or handle.config
    return handle


def handle_of(target: Any) -> Handle | None:
    """The handle that has enabled the target, if one has."""
    from sige.models import find_components

    return _common_handle(find_components(target))


def _common_handle(components: list[Component]) -> Handle | None:
    """The one handle of all components; None where none is enabled."""
    forwards = [component.module.__dict__.get("forward") for component in components]
    handles = {id(one.handle): one.handle for one in forwards if isinstance(one, _Forward)}
    if not handles:
        return None
    (handle, *others) = handles.values()
    if others or any(component.name not in handle.components for component in components):
        raise UnsupportedError("enable: a part of this pipeline is enabled by itself: disable that handle first")
    return handle


@dataclass(frozen=True)
class _Forward:
    """What stands in for a component's forward while it is enabled."""

    handle: Handle
    name: str
    original: Callable[..., Any]
    replaced: Callable[..., Any] | None  # what another library had put in its place

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.handle._call(self, args, kwargs)


@dataclass(frozen=True)
class _Inside:
    """The context that is open: whose calls it takes, and what it does with each."""

    context: str
    thread: int
    run: Callable[[Call], Any]


class Handle:
    """The way back from `enable`, and the two contexts; a context manager itself, which disables on leaving."""

    def __init__(self, components: list[Component]) -> None:
        self.components = {component.name: component for component in components}
        self.config: EditConfig | None = None
        self.pipe: Any = None
        self.last: Recording | None = None  # what edit() reads unless told otherwise
        self.passes = Passes()  # of the last call of the pipeline inside edit()
        self._inside: _Inside | None = None
        self._text = TextCache()  # good for as long as the weights are those of the last recording
        self._formats: list[nn.Conv2d] = []
        self._walked: dict[str, list[object]] = {}
        for component in components:
            module = component.module
            original = module.forward
            module.forward = _Forward(self, component.name, original, module.__dict__.get("forward"))
            self._adopt(component)
        self.enabled = True

    # ---- attaching --------------------------------------------------------------------------------------------------

    def _adopt(self, component: Component) -> None:
        """Lays convolution weights channels-last, and remembers what the walk has seen."""
        self.components[component.name] = component
        self._walked[component.name] = _state(component.module)
        with torch.inference_mode(False):
            for module in component.module.modules():
                if isinstance(module, nn.Conv2d) and not _is_channels_last(module.weight):
                    module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
                    self._formats.append(module)

    def _look_again(self) -> None:
        """Walks a component again that has changed since: a LoRA was loaded, a hook or a processor was set."""
        for component in list(self.components.values()):
            if _state(component.module) != self._walked[component.name]:
                self._adopt(component.rebuild())

    def disable(self) -> None:
        """Gives every module its own forward and weight layout back; dense outputs are what they were, bit for bit."""
        if not self.enabled:
            return
        self.enabled = False
        self._inside = self.last = None
        self._text.clear()
        for component in self.components.values():
            forward = component.module.__dict__.get("forward")
            if not isinstance(forward, _Forward):
                continue  # wrapped by somebody else since: their wrapper reaches the model's own forward through ours
            del component.module.forward
            if forward.replaced is not None:
                component.module.forward = forward.replaced
        with torch.inference_mode(False):
            for module in self._formats:
                module.weight.data = module.weight.data.contiguous()
        self._formats.clear()

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *_: object) -> None:
        self.disable()

    # ---- contexts ---------------------------------------------------------------------------------------------------

    @contextmanager
    def record(self) -> Iterator[Recording]:
        """Inside, calls run dense and leave what they computed in the recording that this yields.

        A component that is called more than once is recorded as of its last call. Where the block raises, the
        recording is cleared. Weights must not change between a recording and the edits that read it.
        """
        recording = Recording()
        with self._entered("record", lambda call: record_pass(call, recording)):
            self._text.clear()
            try:
                yield recording
            except BaseException:
                recording.clear()
                raise
        if self.enabled:
            self.last = recording

    @contextmanager
    def edit(
        self,
        region: Region | Any,  # or, with a configuration, a mask [H, W]
        blend: Iterable[tuple[Recording, float]] | None = None,
        *,
        original: Tensor | None = None,  # [1 or B, C, h, w]
        start: Tensor | None = None,  # [1 or B, C, h, w]
        exact_statistics: bool = True,
    ) -> Iterator[None]:
        """Inside, calls compute the region's active positions only and take the rest from recordings.

        `blend` is a list of (recording, weight) whose weights add up to 1; the last recording unless given. With
        `exact_statistics=False` the GroupNorm statistics stay as they were recorded, for comparison.

        Where `enable` got a configuration and no blend is given, the policy makes its recordings by itself, step by
        step of each call of the pipeline; the VAE runs dense. Lockstep needs the `original` picture's scaled latents,
        and `start`, those that the pipeline adds noise to, where they are others.
        """
        self._check_idle("edit")
        if self.config is not None and blend is None:
            with self._following(self.config, region, original, start):
                yield
            return
        packing = Packing(_as_region(region, None), exact_statistics, self._text)
        if blend is None:
            if self.last is None:
                raise RecordingError("edit: nothing was recorded yet: run a dense pass inside `with handle.record():`")
            blend = [(self.last, 1.0)]
        read = Blend.of(blend)
        with self._entered("edit", lambda call: packing.run(call, read)):
            yield

    @contextmanager
    def _following(
        self, config: EditConfig, region: Any, original: Tensor | None, start: Tensor | None
    ) -> Iterator[None]:
        """Inside, UNet calls follow the policy; when the block ends, or a pass raises, its recordings are freed."""
        packing = Packing(_as_region(region, config), config.exact_statistics, self._text)
        policy = make_policy(config, packing, self.pipe, original=original, start=start)
        with self._entered("edit", lambda call: self._follow(policy, call)):
            self._text.clear()
            try:
                yield
            finally:
                policy.reset()

    def _follow(self, policy: Policy, call: Call) -> Any:
        if call.component.name != "unet":
            return call.dense()
        try:
            return policy(call)
        except BaseException:
            policy.reset()
            raise
        finally:
            self.passes = policy.passes

    @contextmanager
    def _entered(self, context: str, run: Callable[[Call], Any]) -> Iterator[None]:
        with _ENTRY:
            self._check_idle(context)
            self._look_again()
            self._inside = _Inside(context, threading.get_ident(), run)
        try:
            yield
        finally:
            self._inside = None

    def _check_idle(self, context: str) -> None:
        if not self.enabled:
            raise RecordingError(f"{context}: the handle was disabled: call sige.enable() again")
        if self._inside is not None:
            another = "" if self._inside.thread == threading.get_ident() else ", which another thread is in"
            raise RecordingError(
                f"{context}: already inside `with handle.{self._inside.context}(...)`{another}: leave it first"
            )

    # ---- one call ---------------------------------------------------------------------------------------------------

    def _call(self, forward: _Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        inside = self._inside
        if inside is None:
            return forward.original(*args, **kwargs)
        if inside.thread != threading.get_ident():
            raise RecordingError(
                f"{forward.name}: called while another thread is inside `with handle.{inside.context}(...)`: wait for "
                "it, or give each thread a model of its own"
            )
        bound = inspect.signature(forward.original).bind(*args, **kwargs)
        bound.apply_defaults()
        return inside.run(Call(self.components[forward.name], forward.original, args, kwargs, bound.arguments))


def _as_region(region: Any, config: EditConfig | None) -> Region:
    """The region itself, or that of a mask where a configuration says how far to dilate it."""
    if isinstance(region, Region):
        return region
    if config is None:
        raise RegionError(
            f"edit: got {type(region).__name__}, expected a sige.Region: make one with sige.Region.from_mask(mask)"
        )
    return Region.from_mask(region, dilation=config.dilates_by)


def _state(root: nn.Module) -> list[object]:
    """What a walk depends on: modules, and whatever changes what their call does."""

    def state(module: nn.Module) -> object:
        hooked = module is not root and is_hooked(module)
        return id(module), type(getattr(module, "processor", None)), module.training, hooked

    return [state(module) for module in root.modules()]


def _is_channels_last(weight: Tensor) -> bool:  # [C_out, C, kh, kw]
    return weight.dim() != 4 or weight.is_contiguous(memory_format=torch.channels_last)
