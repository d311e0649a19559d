"""When a model's forward runs as it is, is recorded, or runs packed: enable(), the handle, its two contexts.

While enabled, `forward` of each component is a thin wrapper. Outside the contexts it calls diffusers' own forward;
inside `record()` the same, with hooks that keep what a packed pass will read; inside `edit()` the packed pass.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from sige.errors import RecordingError
from sige.ops import group_stats, scatter
from sige.packed.features import Layout, PackedPass, Tap, TextCache
from sige.recording import Blend, ComponentRecording, Recording
from sige.region import Region

if TYPE_CHECKING:
    from sige.models import Component

__all__ = ["Handle", "enable"]

logger = logging.getLogger(__name__)


def enable(target: Any) -> Handle:
    """Prepares a UNet2DConditionModel, an AutoencoderKL or a pipeline for recording and editing.

    Raises `UnsupportedError` with path and class for a module that cannot run packed. Enabling twice returns the same
    handle. While enabled, convolution weights are kept channels-last, which packed and recorded passes read without a
    copy; `disable()` puts them back.
    """
    known = _handles.get(target)
    if known is not None and known.enabled:
        return known
    from sige.models import find_components  # diffusers, which takes seconds to import

    handle = Handle(find_components(target))
    _handles[target] = handle
    return handle


_handles: WeakKeyDictionary[Any, Handle] = WeakKeyDictionary()


@dataclass
class _Edit:
    """What an edit context has set up."""

    region: Region
    blend: Blend
    exact_statistics: bool
    layouts: dict[torch.device, Layout] = field(default_factory=dict)


class Handle:
    """The way back from `enable`, and the two contexts; a context manager itself, which disables on leaving."""

    def __init__(self, components: list[Component]) -> None:
        self.components = {component.name: component for component in components}
        self.last: Recording | None = None  # what edit() reads unless told otherwise
        self._edit: _Edit | None = None
        self._recording: Recording | None = None
        self._text = TextCache()  # good for as long as the weights are those of the last recording
        self._formats: list[tuple[nn.Conv2d, torch.memory_format]] = []
        for component in components:
            self._attach(component)
        self.enabled = True

    # ---- attaching --------------------------------------------------------------------------------------------------

    def _attach(self, component: Component) -> None:
        for module in component.module.modules():
            weight = getattr(module, "weight", None)
            if isinstance(module, nn.Conv2d) and isinstance(weight, Tensor):
                if not weight.is_contiguous(memory_format=torch.channels_last):
                    weight.data = weight.data.contiguous(memory_format=torch.channels_last)
                    self._formats.append((module, torch.contiguous_format))
        original = component.module.forward
        signature = inspect.signature(original)
        component.module.forward = partial(self._forward, component, original, signature)

    def disable(self) -> None:
        """Gives every module its own forward and weight layout back; dense outputs are what they were, bit for bit."""
        if not self.enabled:
            return
        self.enabled = False
        self._edit = self._recording = self.last = None
        self._text.clear()
        for component in self.components.values():
            component.module.__dict__.pop("forward", None)
        for module, memory_format in self._formats:
            module.weight.data = module.weight.data.contiguous(memory_format=memory_format)
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
        self._check_idle("record")
        recording = Recording()
        self._recording = recording
        self._text.clear()
        try:
            yield recording
        except BaseException:
            recording.clear()
            raise
        finally:
            self._recording = None
        self.last = recording

    @contextmanager
    def edit(
        self,
        region: Region,
        blend: Iterable[tuple[Recording, float]] | None = None,
        *,
        exact_statistics: bool = True,
    ) -> Iterator[None]:
        """Inside, calls compute the region's active positions only and take the rest from `blend`.

        `blend` is a list of (recording, weight) whose weights add up to 1; the last recording unless given. With
        `exact_statistics=False` the GroupNorm statistics stay as they were recorded, for comparison.
        """
        self._check_idle("edit")
        if blend is None:
            if self.last is None:
                raise RecordingError("edit: nothing was recorded yet: run a dense pass inside `with handle.record():`")
            blend = [(self.last, 1.0)]
        self._edit = _Edit(region, Blend.of(blend), exact_statistics)
        try:
            yield
        finally:
            self._edit = None

    def _check_idle(self, what: str) -> None:
        if not self.enabled:
            raise RecordingError(f"{what}: the handle was disabled: call sige.enable() again")
        if self._edit is not None or self._recording is not None:
            inside = "edit" if self._edit is not None else "record"
            raise RecordingError(f"{what}: already inside `with handle.{inside}(...)`: leave it first")

    # ---- one call ---------------------------------------------------------------------------------------------------

    def _forward(
        self,
        component: Component,
        original: Callable[..., Any],
        signature: inspect.Signature,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        if self._edit is None and self._recording is None:
            return original(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        if self._recording is not None:
            recorder = partial(original, *args, **kwargs)
            return _record(component, recorder, bound.arguments, self._recording)
        return _run_packed(component, bound.arguments, self._edit, self._text)  # type: ignore[arg-type]


def _record(component: Component, call: Callable[[], Any], arguments: dict[str, Any], recording: Recording) -> Any:
    """The dense pass, with hooks that fill the component's part of the recording."""
    part = ComponentRecording()
    sample = component.sample(arguments)
    with ExitStack() as hooks:
        for tap in component.taps():
            hooks.callback(_hook(tap, part).remove)
        result = call()
    output = result[0] if not isinstance(result, Tensor) else result
    part.input = torch.empty_like(sample, device="meta")
    part.device = sample.device
    part.output = output.detach().clone()
    recording.components[component.name] = part
    return result


def _hook(tap: Tap, part: ComponentRecording) -> torch.utils.hooks.RemovableHandle:
    def keep(value: Tensor) -> None:
        rows = _as_rows(value.detach())
        part.rows[tap.key] = rows
        if tap.groups:
            part.stats[tap.key] = group_stats(rows, tap.groups)

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        keep(args[0] if args else kwargs["hidden_states"])

    def after(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        keep(output)

    if tap.of == "input":
        return tap.module.register_forward_pre_hook(before, with_kwargs=True)
    return tap.module.register_forward_hook(after)


def _as_rows(value: Tensor) -> Tensor:  # [B, C, H, W] or [B, M, C] -> [B, M, C]
    """A view where the tensor is channels-last already, a copy where not."""
    if value.dim() == 4:
        value = value.permute(0, 2, 3, 1).flatten(1, 2)
    return value.contiguous()


@torch.no_grad()
def _run_packed(component: Component, arguments: dict[str, Any], edit: _Edit, cache: TextCache) -> Any:
    """The packed pass, scattered into a copy of the recorded output."""
    component.check(arguments)
    sample = component.sample(arguments)
    recorded = edit.blend.component(component.name)
    recorded.check(sample)
    output = recorded.output()
    size = (output.shape[2], output.shape[3])
    layout = edit.layouts.setdefault(sample.device, Layout(edit.region, sample.device))
    if layout.index(size).numel() == 0 and layout.index((sample.shape[2], sample.shape[3])).numel() == 0:
        return component.wrap(output, arguments)
    text = component.text(arguments)
    if text is not None:
        cache.use(text)
    run = PackedPass(layout, recorded, edit.exact_statistics, text, cache)
    scatter(output, component.run(arguments, run), layout.index(size))
    return component.wrap(output, arguments)
