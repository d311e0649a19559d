"""A component: a module of a pipeline whose forward can run packed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from sige.ops import scatter
from sige.packed.features import Features, PackedPass
from sige.packed.layout import Layout
from sige.recordings import BlendedComponent, Probe
from sige.sizes import Size

__all__ = ["Component", "Part", "Role", "pack", "sample_size", "unpack"]

Role = Literal["denoiser", "coder"]


class Component(Protocol):
    """A UNet, an encoder or a decoder as the engine sees it: reads the arguments of a call and runs a packed pass."""

    name: str  # unet, vae.encoder, vae.decoder: its key in a recording
    role: Role
    module: nn.Module  # whose forward is replaced

    def probes(self) -> list[Probe]:
        """The probes of all layers: what a dense pass must record."""

    def regions(self) -> list[nn.Module]:
        """The blocks that come again and again, which can be compiled one by one."""

    def sample(self, arguments: dict[str, Any]) -> Tensor:  # [B, C, H, W]
        """The image-like input among the arguments of forward."""

    def with_sample(
        self,
        arguments: dict[str, Any],
        sample: Tensor,  # [B, C, H, W]
    ) -> dict[str, Any]:
        """The arguments with another image-like input."""

    def text(self, arguments: dict[str, Any]) -> Tensor | None:  # [B, tokens, C]
        """The prompt among the arguments; None for a component that reads none."""

    def check(self, arguments: dict[str, Any]) -> None:
        """Refuses arguments that cannot run packed; the error names the argument and says what to do."""

    def packed(self, arguments: dict[str, Any], packed_pass: PackedPass) -> Tensor:  # [B, N, C_out]
        """Runs the packed pass and returns the output at the active positions."""

    def has_outer(self, arguments: dict[str, Any]) -> bool:
        """Says whether a dense pass with these arguments can leave out the deepest level."""

    def without_deepest(self, forecast: BlendedComponent, sample: Tensor) -> AbstractContextManager[None]:
        """Inside, the dense forward leaves out the deepest level, whose output comes from the forecast."""

    def wrap(self, output: Tensor, arguments: dict[str, Any]) -> Any:  # [B, C_out, H_out, W_out]
        """The output in the form that forward returns."""


@dataclass(frozen=True)
class Part:
    """A module that may become a component. `walk` builds the component, or raises `UnsupportedError`."""

    name: str
    role: Role
    module: nn.Module
    walk: Callable[[], Component]
    required: bool = True  # enable() refuses a module that fails; else the first call to record or run packed does


def sample_size(sample: Tensor) -> Size:  # [B, C, H, W]
    """Height and width of an image-like tensor."""
    return sample.shape[2], sample.shape[3]


def pack(
    dense: Tensor,  # [B, C, H, W]
    layout: Layout,
) -> Features:
    """The packed rows of an image-like tensor: its values at the active positions."""
    size = sample_size(dense)
    rows = dense.flatten(2).transpose(1, 2).index_select(1, layout.positions(size))  # [B, N, C]
    return Features(rows, size)


def unpack(
    output: Tensor,  # [B, C, H, W], written to
    rows: Tensor,  # [B, N, C]
    layout: Layout,
) -> Tensor:  # [B, C, H, W]
    """Writes the rows to the active positions of `output`, and returns `output`."""
    scatter(output, rows, layout.index(sample_size(output)))
    return output
