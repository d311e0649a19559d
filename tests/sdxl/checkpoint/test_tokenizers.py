"""The tokenizers: the places where they are found, the tokens that they give, the message if there are none."""

from __future__ import annotations

import doctest
import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from sdxl.checkpoint import tokenizers
from sdxl.checkpoint.load import load
from sdxl.checkpoint.tokenizers import TOKENS, load_tokenizers
from sdxl.checkpoint.vocabulary import _words, write_tokenizer
from sdxl.errors import InputError

BOTH = ["text_encoder", "text_encoder_2"]
WORDS = _words()
START, END = len(WORDS) - 2, len(WORDS) - 1


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with `vocab.json` and `merges.txt`, as the README has it, and no other file."""
    for name in ("tokenizer", "tokenizer_2"):
        write_tokenizer(tmp_path / "weights" / name, padding="?")
        (tmp_path / "weights" / name / "tokenizer_config.json").unlink()
    return tmp_path / "weights"


def ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, padding="max_length", truncation=True, max_length=TOKENS).input_ids)


def test_the_first_pads_with_the_end_and_the_second_with_an_exclamation_mark(folder: Path) -> None:
    words = load_tokenizers(folder, BOTH)
    first, second = ids(words["tokenizer"], "a"), ids(words["tokenizer_2"], "a")
    assert first == [START, WORDS.index("a</w>"), END] + [END] * (TOKENS - 3)
    assert second == [START, WORDS.index("a</w>"), END] + [0] * (TOKENS - 3)
    assert WORDS[0] == "!"
    assert words["tokenizer"].model_max_length == words["tokenizer_2"].model_max_length == TOKENS


def test_merges_are_read(folder: Path) -> None:
    tokenizer = load_tokenizers(folder, BOTH)["tokenizer"]
    assert tokenizer("The Horse").input_ids == [START, WORDS.index("the</w>"), WORDS.index("horse</w>"), END]


@pytest.mark.parametrize("text", ["", "a photograph of a horse", "Zürich, 東京 🐎!", "x" * 500])
def test_any_text_fits(text: str, folder: Path) -> None:
    for tokenizer in load_tokenizers(folder, BOTH).values():
        found = ids(tokenizer, text)
        assert len(found) == TOKENS and found[0] == START and END in found
        assert max(found) < len(tokenizer) == len(WORDS)


def test_only_what_the_text_encoders_need(folder: Path) -> None:
    assert list(load_tokenizers(folder, ["unet", "vae", "text_encoder"])) == ["tokenizer"]
    assert list(load_tokenizers(folder, ["unet", "vae", "text_encoder_2"])) == ["tokenizer_2"]


@pytest.mark.parametrize("name", ["tokenizer", "tokenizer_2"])
def test_either_folder_serves_both(name: str, folder: Path) -> None:
    shutil.rmtree(folder / name)
    words = load_tokenizers(folder, BOTH)
    assert ids(words["tokenizer"], "a")[-1] == END
    assert ids(words["tokenizer_2"], "a")[-1] == 0


@pytest.mark.parametrize(
    ("repository", "place"),
    [
        ("stabilityai/stable-diffusion-xl-base-1.0", "tokenizer"),
        ("openai/clip-vit-large-patch14", "."),
        ("laion/CLIP-ViT-bigG-14-laion2B-39B-b160k", "."),
    ],
)
def test_a_local_hugging_face_cache_is_used(
    repository: str, place: str, folder: Path, empty_cache: Path, tmp_path: Path
) -> None:
    cached = empty_cache / f"models--{repository.replace('/', '--')}"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("abc")
    shutil.copytree(folder / "tokenizer", cached / "snapshots" / "abc" / place, dirs_exist_ok=True)
    words = load_tokenizers(tmp_path / "elsewhere", BOTH)
    assert ids(words["tokenizer_2"], "a")[-1] == 0


def test_without_any_the_error_gives_the_command(tiny: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "alone.safetensors"
    shutil.copy(tiny["sdxl-base"], path)
    with pytest.raises(InputError, match="run: hf download stabilityai/stable-diffusion-xl-base-1.0 .*tokenizer"):
        load(path, progress=False)


def test_a_broken_vocabulary_is_an_error_of_ours(folder: Path) -> None:
    (folder / "tokenizer" / "vocab.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read as a CLIP tokenizer"):
        load_tokenizers(folder, BOTH)


def test_the_tokenizer_of_other_weights_is_refused(tiny: dict[str, Path], folder: Path) -> None:
    path = folder / "x.safetensors"
    shutil.copy(tiny["sdxl-base"], path)
    vocabulary = folder / "tokenizer" / "vocab.json"
    vocabulary.write_text(json.dumps(json.loads(vocabulary.read_text()) | {"more": 530}))
    with pytest.raises(InputError, match="has 531 words, but the text encoder 530"):
        load(path, progress=False)


def test_examples(folder: Path) -> None:
    found = doctest.testmod(tokenizers, extraglobs={"folder": folder})
    assert found.attempted and not found.failed
