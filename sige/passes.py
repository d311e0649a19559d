"""One pass of a component: dense and recorded, or packed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sige.errors import RegionError
from sige.ops import group_stats, scatter
from sige.packed.features import Layout, PackedPass, Tap, TextCache
from sige.recording import Blend, ComponentRecording, Recording
from sige.region import Region

if TYPE_CHECKING:
    from sige.models import Component

__all__ = ["Call", "Packing", "record_pass"]


@dataclass(frozen=True)
class Call:
    """A call of a component's forward, as it came in."""

    component: Component
    original: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    arguments: dict[str, Any]  # by name, with defaults

    @property
    def sample(self) -> Tensor:  # [B, C, H, W]
        """The image-like input."""
        return self.component.sample(self.arguments)

    def dense(self) -> Any:
        """What the model itself returns."""
        return self.original(*self.args, **self.kwargs)

    def on(self, sample: Tensor) -> Call:  # [B, C, H, W]
        """The same call of another sample."""
        arguments = {**self.arguments, "sample": sample}
        return Call(self.component, self.original, (), arguments, arguments)


def record_pass(call: Call, recording: Recording) -> Any:
    """The dense pass, with hooks that fill the component's part of the recording."""
    component, sample = call.component, call.sample
    component.check(call.arguments)
    part = ComponentRecording()
    with ExitStack() as hooks:
        for tap in component.taps():
            hooks.callback(_hook(tap, part).remove)
        result = call.dense()
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


@dataclass
class Packing:
    """What the packed passes of an edit share."""

    region: Region
    exact_statistics: bool
    text: TextCache
    _layouts: dict[torch.device, Layout] = field(default_factory=dict)

    @torch.no_grad()
    def run(self, call: Call, blend: Blend) -> Any:
        """The packed pass, scattered into a copy of the recorded output."""
        component, sample, arguments = call.component, call.sample, call.arguments
        component.check(arguments)
        recorded = blend.component(component.name)
        recorded.check(sample)
        self._check_aspect(component.name, sample)
        output = recorded.output()
        size = (output.shape[2], output.shape[3])
        layout = self._layouts.setdefault(sample.device, Layout(self.region, sample.device))
        if layout.index(size).numel() == 0 and layout.index((sample.shape[2], sample.shape[3])).numel() == 0:
            return component.wrap(output, arguments)
        text = component.text(arguments)
        if text is not None:
            self.text.use(text)
        run = PackedPass(layout, recorded, self.exact_statistics, text, self.text)
        scatter(output, component.run(arguments, run), layout.index(size))
        return component.wrap(output, arguments)

    def _check_aspect(self, name: str, sample: Tensor) -> None:  # [B, C, h, w]
        """The region's image and the sample differ by one scale, up to a position of rounding."""
        sides = list(zip(self.region.image_size, sample.shape[2:], strict=True))
        least = max(image / (side + 1) for image, side in sides)
        most = min(image / (side - 1) if side > 1 else float("inf") for image, side in sides)
        if least > most:
            raise RegionError(
                f"edit: the region is of an image of {self.region.image_size}, but {name} got "
                f"{tuple(sample.shape[2:])}, which is of another shape: make the region from a mask as large as the "
                "image"
            )
