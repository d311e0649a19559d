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

import torch
from torch import Tensor, nn

from sige.errors import RecordingError, UnsupportedError
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
    from sige.models import find_components  # diffusers, which takes seconds to import

    components = find_components(target)
    handles = {id(handle): handle for handle in map(_handle_of, components) if handle is not None}
    if not handles:
        return Handle(components)
    (handle, *others) = handles.values()
    if others or any(component.name not in handle.components for component in components):
        raise UnsupportedError("enable: a part of this pipeline is enabled by itself: disable that handle first")
    return handle


def _handle_of(component: Component) -> Handle | None:
    """The handle that has enabled the component's module, if one has."""
    forward = component.module.__dict__.get("forward")
    return forward.handle if isinstance(forward, _Forward) else None


@dataclass(frozen=True)
class _Forward:
    """What stands in for a component's forward while it is enabled."""

    handle: Handle
    name: str
    original: Callable[..., Any]
    replaced: Callable[..., Any] | None  # what another library had put in its place

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.handle._call(self, args, kwargs)


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
        self._formats: list[nn.Conv2d] = []
        self._modules: dict[str, list[int]] = {}
        for component in components:
            module = component.module
            original = module.forward
            module.forward = _Forward(self, component.name, original, module.__dict__.get("forward"))
            self._adopt(component)
        self.enabled = True

    # ---- attaching --------------------------------------------------------------------------------------------------

    def _adopt(self, component: Component) -> None:
        """Lays convolution weights channels-last, and remembers which modules the walk has seen."""
        self.components[component.name] = component
        modules = list(component.module.modules())
        self._modules[component.name] = [id(module) for module in modules]
        with torch.inference_mode(False):
            for module in modules:
                if isinstance(module, nn.Conv2d) and not _is_channels_last(module.weight):
                    module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
                    self._formats.append(module)

    def _look_again(self) -> None:
        """Walks a component again whose modules have changed since: a LoRA was loaded or unloaded."""
        for component in list(self.components.values()):
            if [id(module) for module in component.module.modules()] != self._modules[component.name]:
                self._adopt(component.rebuild())

    def disable(self) -> None:
        """Gives every module its own forward and weight layout back; dense outputs are what they were, bit for bit."""
        if not self.enabled:
            return
        self.enabled = False
        self._edit = self._recording = self.last = None
        self._text.clear()
        for component in self.components.values():
            forward = component.module.__dict__.pop("forward")
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
        self._look_again()

    # ---- one call ---------------------------------------------------------------------------------------------------

    def _call(self, forward: _Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._edit is None and self._recording is None:
            return forward.original(*args, **kwargs)
        component = self.components[forward.name]
        bound = inspect.signature(forward.original).bind(*args, **kwargs)
        bound.apply_defaults()
        if self._recording is not None:
            dense = partial(forward.original, *args, **kwargs)
            return _record(component, dense, bound.arguments, self._recording)
        return _run_packed(component, bound.arguments, self._edit, self._text)  # type: ignore[arg-type]


def _is_channels_last(weight: Tensor) -> bool:  # [C_out, C, kh, kw]
    return weight.dim() != 4 or weight.is_contiguous(memory_format=torch.channels_last)


def _record(component: Component, call: Callable[[], Any], arguments: dict[str, Any], recording: Recording) -> Any:
    """The dense pass, with hooks that fill the component's part of the recording."""
    component.check(arguments)
    part = ComponentRecording()
    sample = component.sample(arguments)
    with ExitStack() as hooks:
        for tap in component.taps():
            hooks.callback(_hook(tap, part).remove)
        result = call()
    output = result[0] if not isinstance(result, Tensor) else result
    for key, rows in part.rows.items():
        if rows.untyped_storage().data_ptr() == sample.untyped_storage().data_ptr():
            part.rows[key] = rows.clone()  # the caller's own tensor, which may be written to
    part.input = torch.empty_like(sample, device="meta")
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
