"""Batches, masks, words and the average of weights."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sdxl.checkpoint.tokenizers import load_tokenizers
from sdxl.scenes.numbered import scene_at
from sdxl.scenes.scene import caption
from sdxl.training.batches import Example, make_batch, order
from sdxl.training.ema import Average
from sdxl.training.random_masks import random_mask
from sdxl.training.words import train_tokenizer


class Rows:
    """A source whose examples hold their own number."""

    def __len__(self) -> int:
        return 10

    def example(self, index: int, rng: np.random.Generator) -> Example:
        return Example(torch.full((4, 2, 2), float(index)), f"{index} {rng.integers(1000)}", (8, 8, 0, 0, 8, 8))


@pytest.mark.parametrize("batch", [3, 10, 16])
def test_every_example_comes_once_per_epoch(batch: int) -> None:
    seen = [index for step in range(30) for index in order(0, 10, step, batch)]
    for epoch in range(len(seen) // 10):
        assert sorted(seen[10 * epoch : 10 * epoch + 10]) == list(range(10))
    assert seen[:10] != seen[10:20]


@pytest.mark.parametrize("world", [2, 4])
def test_parts_of_a_batch_are_the_whole(world: int) -> None:
    options = {"seed": 3, "step": 7, "batch": 8, "drop": 0.5, "timesteps": (0, 1000)}
    whole = make_batch(Rows(), **options)
    parts = [make_batch(Rows(), **options, share=(rank, world)) for rank in range(world)]
    for name in ("latents", "noise", "timesteps", "sizes", "dropped"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
    assert [text for part in parts for text in part.captions] == whole.captions
    other = make_batch(Rows(), **{**options, "step": 8})
    assert not torch.equal(other.noise, whole.noise)


def test_masks_are_of_every_kind_and_never_empty() -> None:
    masks = [random_mask(np.random.default_rng(i), 96, 64) for i in range(300)]
    shares = [mask.mean() for mask in masks]
    assert all(mask.shape == (96, 64) for mask in masks) and min(shares) > 0
    assert 0.05 < np.mean([share == 1 for share in shares]) < 0.25
    assert np.mean([0.02 < share < 0.6 for share in shares]) > 0.6


def test_a_learned_tokenizer_has_the_captions_own_words(tmp_path: Path) -> None:
    texts = [caption(scene_at(i), np.random.default_rng(i)) for i in range(300)]
    for name, padding in (("tokenizer", "<|endoftext|>"), ("tokenizer_2", "!")):
        train_tokenizer(texts, tmp_path / name, padding)
    tokenizers = load_tokenizers(tmp_path, ("text_encoder", "text_encoder_2"))
    for tokenizer in tokenizers.values():
        tokens = tokenizer(texts[0]).input_ids
        assert len(tokens) <= 1.3 * len(texts[0].split()) + 2, "about a token a word, and both ends"
        assert len(tokenizer) == 2 * 256 + 128 + 2
        spelled = tokenizer("a giraffe, naturally").input_ids
        assert tokenizer.decode(spelled, skip_special_tokens=True).replace(" ,", ",") == "a giraffe, naturally"


def test_the_average_follows_the_weights_and_can_be_put_in_their_place() -> None:
    layer = nn.Linear(2, 2, bias=False)
    average = Average(layer, decay=0.9)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    for step in range(200):
        average.update(step)
    assert (average.values["weight"] - 1).abs().max() < 1e-3
    with torch.no_grad():
        layer.weight.fill_(2.0)
    with average.applied():
        assert (layer.weight - 1).abs().max() < 1e-3
    assert torch.equal(layer.weight, torch.full((2, 2), 2.0))


@pytest.mark.parametrize(
    "name", ["batches", "ema", "inpaint", "latents", "loop", "random_masks", "plan", "plot", "reading", "words"]
)
def test_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(f"sdxl.training.{name}")).failed == 0
