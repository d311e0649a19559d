"""The diffusers and transformers models of a checkpoint, built on the meta device, where they take no memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sdxl.checkpoint.bounds import check_bounds
from sdxl.errors import CheckpointError

__all__ = ["build_part", "build_parts", "build_scheduler", "complete"]


def build_parts(shapes: Mapping[str, Mapping[str, Any]], where: object = "configs") -> dict[str, nn.Module]:
    """Every part of `shapes`, without weights; `where` names their configs in errors.

    >>> sorted(build_parts(load_shapes("sd15").parts))
    ['text_encoder', 'unet', 'vae']
    """
    return {part: build_part(part, shape, where) for part, shape in shapes.items()}


def build_part(part: str, shape: Mapping[str, Any], where: object = "configs") -> nn.Module:
    check_bounds(part, shape, str(where))
    with _explained(f"{where}: no {part} can be built from it"), torch.device("meta"):
        return _CLASSES[part](dict(shape)).eval().requires_grad_(False)


def build_scheduler(name: object, config: Mapping[str, Any], where: object) -> Any:
    """The diffusers scheduler of that name with the settings of a checkpoint's own, which `where` names in errors."""
    import diffusers

    check_bounds("scheduler", config, str(where))
    with _explained(f"{where}: no {name} can be made with its noise schedule"):
        if not str(name).endswith("Scheduler"):
            raise ValueError("expected the name of a scheduler")
        return getattr(diffusers, str(name)).from_config(dict(config))


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Inside, an error that a library raises about a config becomes a `CheckpointError` of one line."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # the libraries raise errors of many kinds
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(f"{what} ({why}); download it again, or take the project's own configs") from error


def _unet(shape: dict[str, Any]) -> nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel.from_config(shape)  # type: ignore[no-any-return]


def _vae(shape: dict[str, Any]) -> nn.Module:
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_config(shape)  # type: ignore[no-any-return]


def _text_encoder(shape: dict[str, Any]) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(CLIPTextConfig(**shape))  # type: ignore[no-any-return]


def _text_encoder_2(shape: dict[str, Any]) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    return CLIPTextModelWithProjection(CLIPTextConfig(**shape))  # type: ignore[no-any-return]


def _controlnet(shape: dict[str, Any]) -> nn.Module:
    from diffusers import ControlNetModel

    return ControlNetModel.from_config(shape)  # type: ignore[no-any-return]


_CLASSES = {
    "unet": _unet,
    "vae": _vae,
    "text_encoder": _text_encoder,
    "text_encoder_2": _text_encoder_2,
    "controlnet": _controlnet,
}


def complete(model: nn.Module, state: dict[str, Tensor], device: torch.device | str) -> None:
    """Gives the model its weights without a copy, and computes the buffers that checkpoints do not hold."""
    model.load_state_dict(state, strict=True, assign=True)
    for path, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta:
                if name != "position_ids":
                    raise CheckpointError(f"{path}.{name}: is in no checkpoint and unknown to the loader; report this")
                positions = torch.arange(buffer.shape[-1], device=device).expand(buffer.shape)
                module.register_buffer(name, positions, persistent=name not in module._non_persistent_buffers_set)
    left = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if tensor.is_meta]
    if left:
        raise CheckpointError(f"{left[0]} and {len(left) - 1} more were not assigned a weight; report this")
