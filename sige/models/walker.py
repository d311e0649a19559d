"""The walker: it goes through a model, claims each module that it knows, and refuses the others by path and class."""

from __future__ import annotations

from typing import Any

from torch import nn

from sige.errors import UnsupportedError
from sige.geometry import Geometry
from sige.packed.conv import PackedConv
from sige.packed.module_state import is_hooked

__all__ = ["Walker"]

LAYERS = (nn.Conv2d, nn.GroupNorm, nn.LayerNorm)  # the kinds that hold weights


class Walker:
    """Goes through the modules of `root` while the packed blocks are built, and keeps the modules that they claim.

    `finish` refuses a module with weights that no block has claimed: one that was added, or one that a newer diffusers
    calls in a way that this walker does not know.
    """

    def __init__(self, name: str, root: nn.Module) -> None:
        self.name = name
        self.root = root
        self._paths = {module: path for path, module in root.named_modules()}
        self._known: set[nn.Module] = set()  # blocks and layers whose kind was checked
        self._whole: set[nn.Module] = set()  # modules that are called as they are, with all their parts

    # ---- claims and refusals ------------------------------------------------------------------------------------

    def path(self, module: nn.Module) -> str:
        """The path of the module in the component, which is its key in a recording."""
        return str(self._paths[module])

    def refuse(self, module: nn.Module, why: str) -> UnsupportedError:
        """The error for a module that cannot run packed."""
        path = ".".join(part for part in (self.name, self._paths.get(module, "")) if part)
        return UnsupportedError(f"{path} ({type(module).__module__}.{type(module).__name__}): {why}")

    def claim(self, module: Any, *kinds: type[nn.Module]) -> Any:
        """The module itself, after a check that its class is one of the kinds and not a subclass."""
        if type(module) not in kinds:
            wanted = " or ".join(kind.__name__ for kind in kinds)
            hint = self._hint(module)
            raise self.refuse(module, f"SIGE cannot run this module packed, expected {wanted}{hint}")
        self._known.add(module)
        return module

    def claim_all(self, module: Any) -> Any:
        """The module itself, claimed with all its parts and adapters: packed passes call it as it is, on rows."""
        if module is not None:
            self._whole.update(module.modules())
        return module

    def finish(self) -> None:
        """Refuses weights outside the claimed layers, and hooks or replaced forwards on modules that are not called."""
        for module in self.root.modules():
            if module is not self.root and module not in self._whole and is_hooked(module):
                raise self.refuse(
                    module,
                    "has a hook or a replaced forward, which a packed pass would leave out: remove it (layer-wise "
                    "casting, offloading of single layers, quantisation and profilers set such)",
                )
            own = {name for name, _ in module.named_parameters(recurse=False)}
            is_layer = module in self._known and type(module) in LAYERS and own <= {"weight", "bias"}
            if own and module not in self._whole and not is_layer:
                raise self.refuse(module, f"SIGE does not know this module and would leave it out{self._hint(module)}")

    @staticmethod
    def _hint(module: nn.Module) -> str:
        if "lora" in type(module).__module__.lower() or "peft" in type(module).__module__:
            return (
                ": an adapter on a convolution runs packed only as part of it: fuse_lora(), then unload_lora_weights()"
            )
        return ""

    def require(self, module: nn.Module, condition: bool, why: str) -> None:
        """Refuses the module unless the condition holds."""
        if not condition:
            raise self.refuse(module, why)

    # ---- layers ---------------------------------------------------------------------------------------------------

    def conv(self, conv: Any, geometry: Geometry, norm: Any = None, at: nn.Module | None = None) -> PackedConv:
        """The packed convolution, which must have the given geometry, with the GroupNorm (and SiLU) before it."""
        self.claim(conv, nn.Conv2d)
        padding = geometry.padding[0]
        expected = (geometry.kernel, (geometry.stride,) * 2, (padding,) * 2, (1, 1), 1, "zeros")
        got = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode)
        self.require(
            conv, got == expected, f"got kernel, stride, padding, dilation, groups, mode {got}, expected {expected}"
        )
        if norm is not None:
            self.claim(norm, nn.GroupNorm)
        return PackedConv(self.path(at or norm or conv), conv, geometry, norm, at)

    def row_layer(self, layer: Any) -> nn.Module:
        """The layer itself, claimed: a linear layer (with adapters, if any) or a 1x1 convolution."""
        if isinstance(layer, nn.Conv2d):
            self.claim(layer, nn.Conv2d)
            self.require(layer, layer.kernel_size == (1, 1) and layer.stride == (1, 1), "expected a 1x1 convolution")
            return layer
        base = getattr(layer, "base_layer", layer)  # peft wraps the layer that it adapts
        if not isinstance(base, nn.Linear):
            raise self.refuse(layer, f"SIGE cannot run this module packed, expected Linear{self._hint(layer)}")
        self.claim_all(layer)
        return layer  # type: ignore[no-any-return]

    def silu(self, module: nn.Module) -> None:
        """Refuses an activation other than SiLU, the one that gathers apply."""
        self.require(module, type(module) is nn.SiLU, "expected SiLU as the activation")

    def dropout(self, module: nn.Module) -> None:
        """Claims the dropout, which must let everything pass."""
        self.claim(module, nn.Dropout)
        idle = not (module.training and module.p)
        self.require(module, idle, "drops features while training, which a packed pass does not: call eval() first")
