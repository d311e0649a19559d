"""Learned words for one text encoder or both, and files that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sdxl.checkpoint.tiny import tiny_weights
from sdxl.errors import InputError
from sdxl.pipelines.extras import add_lora, add_words
from sdxl.pipelines.load import load_pipeline

NARROW, WIDE = 24, 40  # configs/tiny.yaml: the widths of the text encoders


def pipeline(model: str = "tiny", weights: Path = Path("pretrained")) -> Any:
    where: dict[str, Any] = {"weight_path": weights, "config_path": Path("configs"), "device": "cpu"}
    return load_pipeline(model=model, run_type="original", task="inpainting", dtype=torch.float32, **where)


def words(folder: Path, **vectors: torch.Tensor) -> str:
    save_file(vectors, folder / "horse.safetensors")
    return str(folder / "horse.safetensors")


def vector_of(pipe: Any, word: str, second: bool) -> torch.Tensor | None:
    """The vector that the encoder holds for the word; None where its tokenizer does not know it."""
    tokenizer = pipe.tokenizer_2 if second else pipe.tokenizer
    encoder = pipe.text_encoder_2 if second else pipe.text_encoder
    index = tokenizer.get_vocab().get(word)
    return None if index is None else encoder.get_input_embeddings().weight[index].detach()


def test_a_word_for_both_encoders(tmp_path: Path) -> None:
    pipe = pipeline()
    narrow, wide = torch.randn(1, NARROW), torch.randn(1, WIDE)
    add_words(pipe, words(tmp_path, clip_l=narrow, clip_g=wide))
    assert torch.equal(vector_of(pipe, "horse", second=False), narrow[0])
    assert torch.equal(vector_of(pipe, "horse", second=True), wide[0])


@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_a_word_for_one_encoder_goes_to_the_one_of_its_width(tmp_path: Path, width: int) -> None:
    pipe = pipeline()
    vector = torch.randn(1, width)
    add_words(pipe, words(tmp_path, **{"<horse>": vector}))
    assert torch.equal(vector_of(pipe, "<horse>", second=width == WIDE), vector[0])
    assert vector_of(pipe, "<horse>", second=width != WIDE) is None


def test_a_word_of_stable_diffusion_15_as_the_first_programs_wrote_it(tmp_path: Path) -> None:
    pipe = pipeline("sd15", tiny_weights("sd15"))
    width = pipe.text_encoder.config.hidden_size
    vector = torch.randn(2, width)  # two vectors: a word and its continuation
    torch.save({"string_to_param": {"*": vector}, "name": "horse"}, tmp_path / "pony.pt")
    add_words(pipe, str(tmp_path / "pony.pt"))
    assert torch.equal(vector_of(pipe, "pony", second=False), vector[0])
    assert torch.equal(vector_of(pipe, "pony_1", second=False), vector[1])


def test_what_does_not_fit_is_refused_in_one_short_line(tmp_path: Path) -> None:
    pipe = pipeline()
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    (tmp_path / "junk.pt").write_bytes(b"junk")
    for add, file, why in (
        (add_words, words(tmp_path, odd=torch.randn(1, 7)), "7 wide, expected 24, 40"),
        (add_words, str(tmp_path / "junk.safetensors"), "does not fit"),
        (add_words, str(tmp_path / "junk.pt"), "does not fit"),
        (add_lora, str(tmp_path / "junk.safetensors"), "does not fit"),
        (add_words, str(tmp_path / "nothing.pt"), "does not exist"),
        (add_lora, str(tmp_path / "nothing"), "does not exist"),
    ):
        with pytest.raises(InputError, match=why) as caught:
            add(pipe, file)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
