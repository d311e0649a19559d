"""A component: a module of a pipeline whose forward can run packed."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn

from sige.packed.features import PackedPass, Tap

__all__ = ["Component"]


class Component(Protocol):
    """What editing needs of a UNet, an encoder or a decoder."""

    name: str  # unet, vae.encoder, vae.decoder
    module: nn.Module  # whose forward is replaced

    def rebuild(self) -> Component:
        """The same component walked again, after its modules have changed (a LoRA was loaded, say)."""

    def taps(self) -> list[Tap]:
        """What a dense pass must record."""

    def sample(self, arguments: dict[str, Any]) -> Tensor:  # [B, C, H, W]
        """The image-like input among the arguments of forward."""

    def text(self, arguments: dict[str, Any]) -> Tensor | None:  # [B, tokens, C]
        """The prompt among the arguments, processed as the model does; None where there is no prompt."""

    def check(self, arguments: dict[str, Any]) -> None:
        """Refuses arguments that cannot run packed, by name, with what to do."""

    def run(self, arguments: dict[str, Any], run: PackedPass) -> Tensor:  # [B, N, C_out]
        """The packed pass: the output at the active positions."""

    def wrap(self, output: Tensor, arguments: dict[str, Any]) -> Any:  # [B, C_out, H_out, W_out]
        """The output in the form in which forward returns it."""
