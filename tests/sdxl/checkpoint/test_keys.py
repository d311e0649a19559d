"""The mapping of names, on models of the real sizes (without weights) against names and counts of the real files."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch

from sdxl.checkpoint.configs import KINDS, load_shapes
from sdxl.checkpoint.keys import PREFIXES, Entry, is_ignored, is_projection, make_entries
from sdxl.checkpoint.kinds import family
from sdxl.checkpoint.models import build_parts

OPEN_CLIP_TENSORS = 32 * 12 + 5  # and logit_scale, which inference does not read
CLIP_TENSORS = 12 * 16 + 4  # and position_ids
UNET_TENSORS = {"sdxl-base": 1680, "sdxl-refiner": 1220, "sd15": 686}
VAE_TENSORS = 248


@functools.cache
def full_size(kind: str) -> dict[str, Any]:
    return build_parts(load_shapes(kind).parts)


@functools.cache
def entries(kind: str) -> dict[str, Entry]:
    found = make_entries(full_size(kind), PREFIXES[family(kind)])
    named = {entry.file_key: entry for entry in found}
    assert len(named) == len(found), "two entries of one name"
    return named


@pytest.mark.parametrize(
    ("kind", "tensors"),
    [
        ("sdxl-base", 2515 - 2),  # the real file has one position_ids and one logit_scale
        ("sdxl-refiner", UNET_TENSORS["sdxl-refiner"] + VAE_TENSORS + OPEN_CLIP_TENSORS),
        ("sd15", UNET_TENSORS["sd15"] + VAE_TENSORS + CLIP_TENSORS),
    ],
)
def test_counts_of_the_real_files(kind: str, tensors: int) -> None:
    assert len(entries(kind)) == tensors


KNOWN = {
    "sdxl-base": {
        "model.diffusion_model.time_embed.0.weight": (1280, 320),
        "model.diffusion_model.label_emb.0.0.weight": (1280, 2816),
        "model.diffusion_model.label_emb.0.2.bias": (1280,),
        "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
        "model.diffusion_model.input_blocks.3.0.op.weight": (320, 320, 3, 3),
        "model.diffusion_model.input_blocks.4.0.skip_connection.weight": (640, 320, 1, 1),
        "model.diffusion_model.input_blocks.4.1.proj_in.weight": (640, 640),
        "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight": (640, 640),
        "model.diffusion_model.input_blocks.8.1.transformer_blocks.9.attn2.to_k.weight": (1280, 2048),
        "model.diffusion_model.input_blocks.8.1.transformer_blocks.9.ff.net.0.proj.weight": (10240, 1280),
        "model.diffusion_model.middle_block.0.in_layers.2.weight": (1280, 1280, 3, 3),
        "model.diffusion_model.middle_block.1.transformer_blocks.9.norm3.weight": (1280,),
        "model.diffusion_model.middle_block.2.out_layers.3.weight": (1280, 1280, 3, 3),
        "model.diffusion_model.output_blocks.0.0.in_layers.0.weight": (2560,),
        "model.diffusion_model.output_blocks.2.2.conv.weight": (1280, 1280, 3, 3),
        "model.diffusion_model.output_blocks.5.2.conv.bias": (640,),
        "model.diffusion_model.output_blocks.8.0.emb_layers.1.weight": (320, 1280),
        "model.diffusion_model.out.2.weight": (4, 320, 3, 3),
        "first_stage_model.encoder.down.0.downsample.conv.weight": (128, 128, 3, 3),
        "first_stage_model.encoder.mid.attn_1.q.weight": (512, 512, 1, 1),
        "first_stage_model.encoder.norm_out.weight": (512,),
        "first_stage_model.decoder.mid.block_2.conv1.weight": (512, 512, 3, 3),
        "first_stage_model.decoder.mid.attn_1.proj_out.bias": (512,),
        "first_stage_model.decoder.up.0.block.2.conv2.weight": (128, 128, 3, 3),
        "first_stage_model.decoder.up.0.block.0.nin_shortcut.weight": (128, 256, 1, 1),
        "first_stage_model.decoder.up.3.upsample.conv.weight": (512, 512, 3, 3),
        "first_stage_model.post_quant_conv.weight": (4, 4, 1, 1),
        "first_stage_model.quant_conv.weight": (8, 8, 1, 1),
        "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight": (49408, 768),
        "conditioner.embedders.0.transformer.text_model.encoder.layers.11.mlp.fc1.weight": (3072, 768),
        "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight": (768,),
        "conditioner.embedders.1.model.positional_embedding": (77, 1280),
        "conditioner.embedders.1.model.text_projection": (1280, 1280),
        "conditioner.embedders.1.model.token_embedding.weight": (49408, 1280),
        "conditioner.embedders.1.model.ln_final.bias": (1280,),
        "conditioner.embedders.1.model.transformer.resblocks.31.attn.in_proj_weight": (3840, 1280),
        "conditioner.embedders.1.model.transformer.resblocks.31.attn.in_proj_bias": (3840,),
        "conditioner.embedders.1.model.transformer.resblocks.0.attn.out_proj.weight": (1280, 1280),
        "conditioner.embedders.1.model.transformer.resblocks.0.mlp.c_fc.weight": (5120, 1280),
        "conditioner.embedders.1.model.transformer.resblocks.0.ln_2.weight": (1280,),
    },
    "sdxl-refiner": {
        "model.diffusion_model.label_emb.0.0.weight": (1536, 2560),
        "model.diffusion_model.input_blocks.9.0.op.weight": (1536, 1536, 3, 3),
        "model.diffusion_model.input_blocks.11.0.in_layers.2.weight": (1536, 1536, 3, 3),
        "model.diffusion_model.output_blocks.2.1.conv.weight": (1536, 1536, 3, 3),
        "model.diffusion_model.output_blocks.5.2.conv.weight": (1536, 1536, 3, 3),
        "conditioner.embedders.0.model.transformer.resblocks.31.attn.in_proj_weight": (3840, 1280),
    },
    "sd15": {
        "model.diffusion_model.input_blocks.1.1.proj_in.weight": (320, 320, 1, 1),
        "model.diffusion_model.input_blocks.11.0.out_layers.0.weight": (1280,),
        "model.diffusion_model.output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
        "model.diffusion_model.output_blocks.11.1.proj_out.weight": (320, 320, 1, 1),
        "cond_stage_model.transformer.text_model.encoder.layers.11.self_attn.q_proj.weight": (768, 768),
    },
}


@pytest.mark.parametrize("kind", KNOWN)
def test_names_and_shapes_of_the_real_files(kind: str) -> None:
    found = entries(kind)
    assert {name: found[name].shape if name in found else None for name in KNOWN[kind]} == KNOWN[kind]


@pytest.mark.parametrize("kind", ["sdxl-base", "sdxl-refiner", "sd15"])
def test_diffusers_translates_the_full_size_names_back(kind: str) -> None:
    """Diffusers' rules, which differ from ours, translate the names of all tensors of UNet and VAE."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    shapes = load_shapes(kind).parts
    file = {name: torch.empty(entry.shape, device="meta") for name, entry in entries(kind).items()}
    for part, translate in (("unet", convert_ldm_unet_checkpoint), ("vae", convert_ldm_vae_checkpoint)):
        found = translate(dict(file), shapes[part])
        model = full_size(kind)[part]
        assert {name: value.shape for name, value in found.items()} == {
            name: value.shape for name, value in model.state_dict().items()
        }


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_is_in_exactly_one_tensor_of_its_size(kind: str) -> None:
    models = build_parts(load_shapes(kind, variant="tiny").parts)
    found = make_entries(models, PREFIXES[family(kind)])
    covered = [(entry.part, key) for entry in found for key in entry.model_keys]
    parameters = {(part, key): tensor for part, model in models.items() for key, tensor in model.state_dict().items()}
    assert sorted(covered) == sorted(parameters)
    for entry in found:
        assert sum(parameters[entry.part, key].numel() for key in entry.model_keys) == math.prod(entry.shape)
        assert not is_ignored(entry.file_key)


@pytest.mark.parametrize(
    "name",
    [
        "conditioner.embedders.0.transformer.text_model.embeddings.position_ids",
        "conditioner.embedders.1.model.logit_scale",
        "first_stage_model.loss.discriminator.main.0.weight",
        "model_ema.diffusion_modelinput_blocks00weight",
        "model_ema.decay",
        "denoiser.sigmas",
        "alphas_cumprod",
        "betas",
    ],
)
def test_what_inference_does_not_read_is_known(name: str) -> None:
    assert is_ignored(name)


def test_projections_are_those_of_the_diffusion_model_in_both_layouts() -> None:
    assert is_projection("model.diffusion_model.middle_block.1.proj_in.weight")
    assert is_projection("down_blocks.1.attentions.0.proj_out.weight")
    assert is_projection("mid_block.attentions.0.proj_in.weight")
    assert not is_projection("model.diffusion_model.middle_block.1.proj_in.bias")
    assert not is_projection("first_stage_model.decoder.mid.attn_1.proj_out.weight")
    assert not is_projection("decoder.mid_block.attentions.0.to_out.0.weight")
    assert sum(map(is_projection, entries("sdxl-base"))) == 2 * 11
