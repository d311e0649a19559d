"""The tokenizers of the text encoders. No checkpoint holds the vocabulary: it is beside the weights or in a cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdxl.errors import InputError

__all__ = ["check_vocabulary", "load_tokenizers"]

FILES = ("vocab.json", "merges.txt")
WHOLE = "tokenizer.json"  # transformers 5 writes this instead
PADDING = {"tokenizer": "<|endoftext|>", "tokenizer_2": "!"}  # the padding that each encoder was trained with
TOKENS = 77
FOLDERS = tuple(PADDING)  # the vocabulary is the same: either folder serves both
CACHED = (  # repository, folder
    ("stabilityai/stable-diffusion-xl-base-1.0", "tokenizer/"),
    ("openai/clip-vit-large-patch14", ""),
    ("laion/CLIP-ViT-bigG-14-laion2B-39B-b160k", ""),
)
FETCH = 'hf download stabilityai/stable-diffusion-xl-base-1.0 --include "tokenizer*/*" --local-dir {folder}'


def load_tokenizers(folder: Path, parts: Sequence[str]) -> dict[str, Any]:
    """A tokenizer for each text encoder among `parts`: from `tokenizer/` and `tokenizer_2/` in `folder`, else a cache.

    >>> sorted(load_tokenizers(folder, ["unet", "text_encoder_2"]))
    ['tokenizer_2']
    """
    names = [part.replace("text_encoder", "tokenizer") for part in parts if part.startswith("text_encoder")]
    return {name: _load(_find(folder, name), PADDING[name]) for name in names}


def _find(folder: Path, name: str) -> Path:
    beside = [folder / name, *(folder / other for other in FOLDERS if other != name)]
    for candidate in beside:
        if (candidate / WHOLE).is_file() or all((candidate / file).is_file() for file in FILES):
            return candidate
    for repository, place in CACHED:
        if cached := _cached(repository, place):
            return cached
    command = FETCH.format(folder=folder)
    raise InputError(f"{folder / name}: no {' and '.join(FILES)} there, nor in the Hugging Face cache; run: {command}")


def _cached(repository: str, place: str) -> Path | None:
    """The folder in the local cache that has all files; looks at the disk only."""
    from huggingface_hub import try_to_load_from_cache

    paths = [try_to_load_from_cache(repository, place + file) for file in FILES]
    return Path(str(paths[0])).parent if all(isinstance(path, str) for path in paths) else None


def _load(folder: Path, padding: str) -> Any:
    from transformers import CLIPTokenizer

    settings = {"pad_token": padding, "model_max_length": TOKENS, "local_files_only": True}
    try:
        return CLIPTokenizer.from_pretrained(str(folder), **settings)
    except Exception as error:  # the library has no common type for broken vocabularies
        text = " ".join(str(error).split())[:200]
        raise InputError(f"{folder}: cannot be read as a CLIP tokenizer ({text}); download it again") from error


def check_vocabulary(tokenizer: Any, encoder: Any, name: str, folder: Path) -> None:
    """Refuses a tokenizer that does not have the text encoder's size: it would give noise, or ids out of range."""
    words, expected = len(tokenizer), encoder.config.vocab_size
    if words != expected:
        raise InputError(
            f"{folder / name}: has {words} words, but the text encoder {expected}; put the right tokenizer there"
        )
