"""A UNet that is grown for inpainting predicts the same as before, and learns from its new inputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sdxl.checkpoint.load import Parts, load
from sdxl.checkpoint.tiny import tiny_weights
from sdxl.commands.export import save_single_file
from sdxl.training.inpaint import GROWN, grow, inpaints


def predict(parts: Parts, latents: torch.Tensor) -> torch.Tensor:  # [1, C, 8, 8] -> [1, 4, 8, 8]
    config = parts.unet.config
    generator = torch.Generator().manual_seed(1)
    text = torch.randn(1, 5, config.cross_attention_dim, generator=generator)
    added = None
    if config.addition_embed_type == "text_time":
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        added = {"text_embeds": torch.randn(1, pooled, generator=generator), "time_ids": torch.full((1, 6), 64.0)}
    return parts.unet(latents, 500, text, added_cond_kwargs=added).sample


@pytest.mark.parametrize("kind", GROWN)
def test_a_grown_unet_predicts_what_it_did(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    parts, inputs = load(tiny_weights(kind), progress=False), torch.randn(1, 9, 8, 8)
    with torch.no_grad():
        before = predict(parts, inputs[:, :4])
        grown = grow(parts)
        torch.testing.assert_close(predict(grown, inputs), before, rtol=1e-5, atol=1e-5)
    assert inpaints(grown) and grown.kind == GROWN[kind]
    save_single_file(grown, tmp_path / "grown.safetensors")
    again = load(tmp_path / "grown.safetensors", progress=False, tokenizers=False)
    assert again.kind == GROWN[kind] and torch.equal(again.unet.conv_in.weight, grown.unet.conv_in.weight)


def test_the_new_inputs_learn() -> None:
    torch.manual_seed(0)
    parts = grow(load(tiny_weights("sdxl-base"), progress=False))
    assert not parts.unet.conv_in.weight.requires_grad, "as the rest of a loaded checkpoint"
    parts.unet.requires_grad_(True)
    predict(parts, torch.randn(1, 9, 8, 8)).square().mean().backward()
    gradient = parts.unet.conv_in.weight.grad
    assert gradient is not None and all(gradient[:, channel].any() for channel in range(9))
