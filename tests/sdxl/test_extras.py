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
from sdxl.pipelines.lora import with_strength

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


# ---- LoRA ------------------------------------------------------------------------------------------------------------

QUERY, KEY, VALUE = (f"mid_block.attentions.0.transformer_blocks.0.attn1.to_{name}" for name in "qkv")
WORD = "encoder.layers.0.self_attn.q_proj"


def factors(pipe: Any, part: str, layer: str, rank: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    """The two factors of a layer under peft's names, for the layer's own size."""
    weight = dict(getattr(pipe, part).named_modules())[layer].weight
    random = torch.Generator().manual_seed(seed)
    down = torch.randn(rank, weight.shape[1], generator=random)
    up = torch.randn(weight.shape[0], rank, generator=random)
    return {f"{part}.{layer}.lora_A.weight": down, f"{part}.{layer}.lora_B.weight": up}


def delta(factors_: dict[str, torch.Tensor]) -> torch.Tensor:  # [out, in]
    down, up = factors_.values()
    return up @ down


def added(pipe: Any, part: str, layer: str) -> torch.Tensor:  # [out, in]
    """What the active LoRA add to the weight of a layer."""
    module = dict(getattr(pipe, part).named_modules())[layer]
    total = torch.zeros_like(module.base_layer.weight)
    for name in module.active_adapters:
        if name in module.scaling:
            total = total + module.get_delta_weight(name)
    return total.detach()


def saved(tensors: dict[str, torch.Tensor], path: Path) -> str:
    save_file(tensors, path)
    return str(path)


def test_strengths_of_several_add_up(tmp_path: Path) -> None:
    pipe = pipeline()
    one, two = (factors(pipe, "unet", QUERY, seed=seed) for seed in (1, 2))
    word = factors(pipe, "text_encoder", WORD, seed=3)
    add_lora(pipe, saved(one, tmp_path / "one.safetensors"), 0.5)
    add_lora(pipe, saved(two | word, tmp_path / "two.safetensors"), -0.25)
    assert torch.allclose(added(pipe, "unet", QUERY), 0.5 * delta(one) - 0.25 * delta(two), atol=1e-6)
    assert torch.allclose(added(pipe, "text_encoder", WORD), -0.25 * delta(word), atol=1e-6)


def test_a_file_of_another_program_keeps_its_alpha(tmp_path: Path) -> None:
    """Its tensors have names of their own, and each layer an alpha by which its rank is scaled."""
    pipe = pipeline()
    mine = factors(pipe, "unet", QUERY)
    (down, up), layer = mine.values(), "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q"
    theirs = {f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up, f"{layer}.alpha": torch.tensor(1.0)}
    add_lora(pipe, saved(theirs, tmp_path / "theirs.safetensors"), 0.5)
    assert torch.allclose(added(pipe, "unet", QUERY), 0.5 * delta(mine) / 2, atol=1e-6)  # alpha 1 of rank 2


def test_a_file_that_matches_in_part_gives_the_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pipe = pipeline()
    mine, key, value = (factors(pipe, "unet", layer) for layer in (QUERY, KEY, VALUE))
    wide = {name: torch.cat([tensor, tensor], 1) if "lora_A" in name else tensor for name, tensor in key.items()}
    tall = {name: torch.cat([tensor, tensor]) if "lora_B" in name else tensor for name, tensor in value.items()}
    strange = {name.replace(KEY, "nowhere.to_k"): tensor.clone() for name, tensor in key.items()}
    add_lora(pipe, saved(mine | wide | tall | strange, tmp_path / "part.safetensors"))
    assert "the model has 1 of its 4 layers" in caplog.text
    assert torch.allclose(added(pipe, "unet", QUERY), delta(mine), atol=1e-6)


def test_a_file_of_which_nothing_matches_is_refused(tmp_path: Path) -> None:
    pipe = pipeline()
    strange = {key.replace(QUERY, "nowhere.to_q"): tensor for key, tensor in factors(pipe, "unet", QUERY).items()}
    with pytest.raises(InputError, match="the model has none of its 1 layers: take a LoRA for this model"):
        add_lora(pipe, saved(strange, tmp_path / "strange.safetensors"))
    assert not hasattr(dict(pipe.unet.named_modules())[QUERY], "base_layer")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.safetensors", ("a.safetensors", 1.0)),
        ("a.safetensors:0.8", ("a.safetensors", 0.8)),
        ("a:-1", ("a", -1.0)),
        ("with:colon/a.safetensors", ("with:colon/a.safetensors", 1.0)),
        ("a:b:2", ("a:b", 2.0)),
    ],
)
def test_a_strength_stands_behind_the_last_colon(text: str, expected: tuple[str, float]) -> None:
    assert with_strength(text) == expected


def test_a_file_whose_name_ends_like_a_strength_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("style:2").touch()
    assert with_strength("style:2") == ("style:2", 1.0)
    assert with_strength("style:3") == ("style", 3.0)


@pytest.mark.parametrize("text", ["a:0", "a:11", "a:nan", "a:inf", "a:strong", ":0.5", "a:"])
def test_other_strengths_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected FILE or FILE:strength|expected a number from -10 to 10"):
        with_strength(text)
