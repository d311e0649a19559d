"""One pass of a component: dense, dense and recorded, or packed."""

from __future__ import annotations

from dataclasses import astuple, dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from sige.errors import RegionError
from sige.forward import Forward
from sige.models.component import Component, sample_size, unpack
from sige.ops import group_stats
from sige.packed.features import PackedPass
from sige.packed.layout import IndexName, Layout
from sige.packed.prompt import PromptKeys
from sige.programs import Programs
from sige.recordings import Blend, ComponentRecording, Patch, Recording
from sige.region import Region
from sige.sizes import Size

__all__ = ["Call", "Packing", "Passes", "names_read", "output_of", "record_outer", "record_pass"]


@dataclass
class Passes:
    """The number of passes of each kind."""

    dense: int = 0
    packed: int = 0
    half: int = 0  # dense for the prompt's half of the batch, packed for the other
    skipped: int = 0  # calls that no pass answered
    outer: int = 0  # dense without the deepest level

    @property
    def calls(self) -> int:
        """The number of calls that were answered."""
        return self.dense + self.packed + self.half + self.skipped + self.outer

    def describe(self) -> str:
        """The numbers in words.

        >>> Passes(dense=7, packed=7, skipped=16).describe()
        '7 dense, 7 packed, 16 skipped'
        """
        kinds = {"dense": self.dense, "half dense": self.half, "outer levels": self.outer}
        kinds |= {"packed": self.packed, "skipped": self.skipped}
        return ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)

    def __sub__(self, other: Passes) -> Passes:
        return Passes(*(ours - theirs for ours, theirs in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Call:
    """A call of a component's forward, as it came in."""

    component: Component
    forward: Forward
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    arguments: dict[str, Any]  # by name, with defaults
    passes: Passes = field(default_factory=Passes)  # of the component; each pass adds itself
    changed: bool = False  # since the call before: modules or weights are others
    programs: Programs = field(default_factory=Programs)  # of the component's packed passes

    @property
    def sample(self) -> Tensor:  # [B, C, H, W]
        """The image-like input."""
        return self.component.sample(self.arguments)

    def dense(self) -> Any:
        """Runs the model's own forward, and returns its result."""
        self.passes.dense += 1
        return self.forward.dense(self.args, self.kwargs)

    def recorded(self) -> tuple[Any, ComponentRecording]:
        """Runs the model's own forward; returns its result, and what the taps in its layers have kept."""
        self.passes.dense += 1
        return self.forward.recorded(self.args, self.kwargs)

    def on(self, sample: Tensor) -> Call:  # [B, C, H, W]
        """The same call of another sample."""
        arguments = self.component.with_sample(self.arguments, sample)
        return replace(self, args=(), kwargs=arguments, arguments=arguments)

    def half(self, second: bool) -> Call:
        """The same call of the first or the second half of the batch; its passes are not counted."""
        arguments = _half(self.arguments, len(self.sample), second)
        return replace(self, args=(), kwargs=arguments, arguments=arguments, passes=Passes())


def _half(value: Any, batch: int, second: bool) -> Any:
    """One half of each tensor whose first axis is the batch, in dicts, lists and tuples, too."""
    if isinstance(value, dict):
        return {name: _half(one, batch, second) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_half(one, batch, second) for one in value)
    has_batch = isinstance(value, Tensor) and value.dim() > 0 and len(value) == batch
    return value.chunk(2)[int(second)] if has_batch else value


def output_of(result: Any) -> Tensor:  # [B, C_out, H_out, W_out]
    """The output in what a model's forward returns."""
    return result if isinstance(result, Tensor) else result[0]


def record_pass(call: Call, recording: Recording) -> Any:
    """Runs the model's own forward, and returns its result; a tap in each layer fills the recording's part."""
    component, sample = call.component, call.sample
    component.check(call.arguments)
    result, part = call.recorded()
    output = output_of(result)
    for key, rows in part.rows.items():
        if rows.untyped_storage().data_ptr() == sample.untyped_storage().data_ptr():
            part.rows[key] = rows.clone()  # the caller's own tensor, which may be written to
    part.input = torch.empty_like(sample, device="meta")
    part.output = output.detach().clone()
    recording.components[component.name] = part
    return result


def record_outer(call: Call, recording: Recording, forecast: Blend) -> Any:
    """Runs the model's own forward without its deepest level, whose features and recording are the forecast's.

    The pass is not compiled as a whole: the forecast stands in for three blocks, which compiled code has inlined.
    """
    component = call.component
    blend = forecast.component(component.name)
    with component.without_deepest(blend, call.sample):
        result = record_pass(replace(call, forward=call.forward.uncompiled()), recording)
    part = recording.components[component.name]
    for key in blend.keys - part.rows.keys():
        part.rows[key] = blend.rows(key)
        if (groups := blend.groups(key)) is not None:
            part.stats[key] = group_stats(part.rows[key], groups)
    return result


# What passes of a component over samples of a size have read, of any region.
_names_read: WeakKeyDictionary[Component, dict[Size, tuple[IndexName, ...]]] = WeakKeyDictionary()


def names_read(component: Component, size: Size) -> tuple[IndexName, ...]:
    """The index tensors that the component's packed passes over samples of a size have read so far, of any region."""
    return _names_read.get(component, {}).get(size, ())


def _remember(component: Component, size: Size, layout: Layout) -> None:
    """Notes what the layout was asked for. Two threads may note at once; then the names of the last one stay."""
    if len(layout.names) != len(names_read(component, size)):
        _names_read.setdefault(component, {})[size] = tuple(layout.names)


@dataclass
class Packing:
    """The data that the packed passes of an edit share."""

    region: Region
    exact_statistics: bool
    prompt: PromptKeys
    _layouts: dict[tuple[str, Size, torch.device], Layout] = field(default_factory=dict)

    @torch.no_grad()
    def packed(self, call: Call, blend: Blend, patch: Patch | None = None) -> Any:
        """The recorded output with new values at the active positions, in the form of the model's own result.

        A patch, if given, is filled with the new rows of every layer.
        """
        component, sample, arguments = call.component, call.sample, call.arguments
        component.check(arguments)
        recorded = blend.component(component.name)
        recorded.check(sample)
        self._check_aspect(component.name, sample)
        call.passes.packed += 1
        output = recorded.output()
        layout = self._layout(component, sample)
        if any(layout.index(sample_size(level)).numel() for level in (output, sample)):
            kept = None if patch is None else patch.rows
            packed_pass = PackedPass(layout, recorded, self.exact_statistics, self._prompt_of(call), kept)
            rows = call.programs.run(component.packed, component.module, arguments, packed_pass)
            count = layout.index(sample_size(output)).numel()  # a graph returns more: rows that are padding
            unpack(output, rows if rows.shape[1] == count else rows[:, :count].contiguous(), layout)
            _remember(component, sample_size(sample), layout)
        if patch is not None:
            patch.output = output.detach().clone()
        return component.wrap(output, arguments)

    def _layout(self, component: Component, sample: Tensor) -> Layout:  # [B, C, h, w]
        """The component's index tensors of the region; what its passes over other regions read is made at once."""
        size = sample_size(sample)
        key = component.name, size, sample.device
        if key not in self._layouts:
            self._layouts[key] = Layout(self.region, sample.device, names_read(component, size))
        return self._layouts[key]

    def _prompt_of(self, call: Call) -> PromptKeys:
        text = call.component.text(call.arguments)
        if text is None:
            return PromptKeys()
        self.prompt.use(text)
        return self.prompt

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
