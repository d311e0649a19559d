"""The names of weights in the single-file layout, mapped to those of diffusers and transformers and back.

The rules translate each parameter of a model on the meta device, so they cover any depth and width. Loading and saving
use the same list of `Entry`, in opposite directions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from sdxl.errors import CheckpointError

__all__ = ["PREFIXES", "Entry", "is_ignored", "is_projection", "make_entries"]

Shape = tuple[int, ...]

# The prefix of each part in the file, by family.
PREFIXES: dict[str, dict[str, str]] = {
    "sdxl": {
        "unet": "model.diffusion_model.",
        "vae": "first_stage_model.",
        "text_encoder": "conditioner.embedders.0.transformer.text_model.",
        "text_encoder_2": "conditioner.embedders.1.model.",
    },
    "refiner": {
        "unet": "model.diffusion_model.",
        "vae": "first_stage_model.",
        "text_encoder_2": "conditioner.embedders.0.model.",
    },
    "sd15": {
        "unet": "model.diffusion_model.",
        "vae": "first_stage_model.",
        "text_encoder": "cond_stage_model.transformer.text_model.",
    },
}

# Keys in real files that inference does not read: schedules, averages, counters, training losses.
IGNORED = [
    r"(.*\.)?position_ids",
    r"(.*\.)?logit_scale",
    r"(.*\.)?loss\..*",
    r"model_ema\..*",
    r"denoiser\..*",
    r"(alphas_cumprod|alphas_cumprod_prev|betas|logvar|scale_factor|v_posterior|global_step|num_ema_updates)",
    r"(sqrt_alphas_cumprod|sqrt_one_minus_alphas_cumprod|log_one_minus_alphas_cumprod)",
    r"(sqrt_recip_alphas_cumprod|sqrt_recipm1_alphas_cumprod|lvlb_weights)",
    r"(posterior_mean_coef1|posterior_mean_coef2|posterior_variance|posterior_log_variance_clipped)",
]
_IGNORED = re.compile("|".join(IGNORED))


def is_ignored(name: str) -> bool:
    return _IGNORED.fullmatch(name) is not None


# The projections of the UNet's transformers in both layouts; the VAE's attention does not match.
_PROJECTION = re.compile(
    r"(input_blocks|middle_block|output_blocks|down_blocks|mid_block|up_blocks)\..*\.proj_(in|out)\.weight"
)


def is_projection(name: str) -> bool:
    """Says whether the key is a projection of the UNet: a linear layer in some files, a 1x1 convolution in others."""
    return _PROJECTION.search(name) is not None and not is_ignored(name)


@dataclass(frozen=True)
class Entry:
    """One tensor of the file and the parameters in it: one, or three whose rows follow one another."""

    part: str
    file_key: str
    model_keys: tuple[str, ...]
    shape: Shape  # in the file
    transposed: bool = False
    projection: bool = False  # [C, D] and [C, D, 1, 1] are the same weights: a linear layer, a 1x1 convolution

    def accepts(self, shape: Shape) -> bool:
        return shape == self.shape or (self.projection and _matrix(shape) == _matrix(self.shape))


def _matrix(shape: Shape) -> Shape:
    return shape[:2] if len(shape) == 4 and shape[2:] == (1, 1) else shape


def make_entries(models: Mapping[str, Any], prefixes: Mapping[str, str]) -> list[Entry]:
    """The entries for all parts of one checkpoint, in the order of the models' parameters."""
    entries: list[Entry] = []
    for part, model in models.items():
        shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        entries += _ENTRIES[part](model, part, prefixes[part], shapes)
    return entries


# ---- UNet and VAE ---------------------------------------------------------------------------------------------------

RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
          "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}  # fmt: skip
UNET_ENDS = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
             "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
             "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}  # fmt: skip
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def _unet_entries(model: Any, part: str, prefix: str, shapes: Mapping[str, Shape]) -> list[Entry]:
    config = model.config
    layers, levels = config.layers_per_block, len(config.down_block_types)
    if not isinstance(layers, int):
        raise CheckpointError(
            f"layers_per_block: got {list(layers)}, expected one number for all levels in a single file"
        )
    attends = [type_.startswith("CrossAttn") for type_ in config.up_block_types]
    translate = partial(_unet_key, layers=layers, levels=levels, attends=attends)
    return [
        Entry(part, prefix + translate(key), (key,), shape, projection=is_projection(key))
        for key, shape in shapes.items()
    ]


def _unet_key(key: str, layers: int, levels: int, attends: list[bool]) -> str:
    """The name in the file, which numbers all blocks of a side in one row.

    A downsampler is a block of its own there; an upsampler belongs to the block before it.
    """
    if match := re.match(r"down_blocks\.(\d+)\.(resnets|attentions|downsamplers)\.(\d+)\.(.*)", key):
        level, kind, index, rest = int(match[1]), match[2], int(match[3]), match[4]
        if kind == "downsamplers":
            return f"input_blocks.{(level + 1) * (layers + 1)}.0.op.{rest.removeprefix('conv.')}"
        return f"input_blocks.{1 + level * (layers + 1) + index}." + _layer(kind, rest)
    if match := re.match(r"up_blocks\.(\d+)\.(resnets|attentions|upsamplers)\.(\d+)\.(.*)", key):
        level, kind, index, rest = int(match[1]), match[2], int(match[3]), match[4]
        if kind == "upsamplers":
            return f"output_blocks.{level * (layers + 1) + layers}.{2 if attends[level] else 1}.{rest}"
        return f"output_blocks.{level * (layers + 1) + index}." + _layer(kind, rest)
    if match := re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", key):
        if match[1] == "attentions":
            return f"middle_block.1.{match[3]}"
        return f"middle_block.{2 * int(match[2])}.{_replace_start(match[3], RESNET)}"
    return _replace_start(key, UNET_ENDS)


def _layer(kind: str, rest: str) -> str:
    return f"1.{rest}" if kind == "attentions" else f"0.{_replace_start(rest, RESNET)}"


def _vae_entries(model: Any, part: str, prefix: str, shapes: Mapping[str, Shape]) -> list[Entry]:
    """The VAE's entries. Its middle attention has 1x1 convolutions in the file and linear layers in diffusers."""
    levels = len(model.config.block_out_channels)
    entries = []
    for key, shape in shapes.items():
        projection = ".attentions." in key and len(shape) == 2
        shape = (*shape, 1, 1) if projection else shape
        entries.append(Entry(part, prefix + _vae_key(key, levels), (key,), shape, projection=projection))
    return entries


def _vae_key(key: str, levels: int) -> str:
    """The name in the file, which counts the decoder's levels from the finest; diffusers counts them as they run."""
    key = key.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    key = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", key)
    key = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d+)\.resnets", lambda match: f"up.{levels - 1 - int(match[1])}.block", key)
    key = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda match: f"up.{levels - 1 - int(match[1])}.upsample", key)
    key = re.sub(r"mid_block\.resnets\.(\d+)", lambda match: f"mid.block_{int(match[1]) + 1}", key)
    if match := re.match(r"(.*)mid_block\.attentions\.0\.(.*)", key):
        return f"{match[1]}mid.attn_1.{_replace_start(match[2], VAE_ATTENTION)}"
    return key


# ---- text encoders --------------------------------------------------------------------------------------------------

OPEN_CLIP = {"embeddings.token_embedding.weight": "token_embedding.weight",
             "embeddings.position_embedding.weight": "positional_embedding",
             "final_layer_norm": "ln_final"}  # fmt: skip
OPEN_CLIP_LAYER = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
                   "self_attn.out_proj": "attn.out_proj"}  # fmt: skip


def _clip_entries(_: Any, part: str, prefix: str, shapes: Mapping[str, Shape]) -> list[Entry]:
    """The entries of the first text encoder, which has in the file the names that transformers used before 5.6."""
    return [Entry(part, prefix + _bare(key), (key,), shape) for key, shape in shapes.items()]


def _open_clip_entries(_: Any, part: str, prefix: str, shapes: Mapping[str, Shape]) -> list[Entry]:
    """The entries of the second text encoder.

    The file has one matrix for query, key and value; its text projection multiplies from the other side.
    """
    entries = []
    for key, shape in shapes.items():
        bare = _bare(key)
        if bare == "text_projection.weight":
            entries.append(Entry(part, prefix + "text_projection", (key,), shape[::-1], transposed=True))
        elif match := re.match(r"encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)", bare):
            if match[2] == "q":
                keys = tuple(key.replace("q_proj", f"{letter}_proj") for letter in "qkv")
                name = f"transformer.resblocks.{match[1]}.attn.in_proj_{match[3]}"
                entries.append(Entry(part, prefix + name, keys, (3 * shape[0], *shape[1:])))
        elif match := re.match(r"encoder\.layers\.(\d+)\.(.*)", bare):
            name = f"transformer.resblocks.{match[1]}.{_replace_start(match[2], OPEN_CLIP_LAYER)}"
            entries.append(Entry(part, prefix + name, (key,), shape))
        else:
            entries.append(Entry(part, prefix + _replace_start(bare, OPEN_CLIP), (key,), shape))
    return entries


def _bare(key: str) -> str:
    return key.removeprefix("text_model.")


def _replace_start(key: str, names: Mapping[str, str]) -> str:
    """The key with its first name replaced; only a whole name counts, so `conv_in` does not match `conv_input`."""
    for old, new in names.items():
        if key == old or key.startswith(old + "."):
            return new + key[len(old) :]
    return key


_ENTRIES = {
    "unet": _unet_entries,
    "vae": _vae_entries,
    "text_encoder": _clip_entries,
    "text_encoder_2": _open_clip_entries,
}
