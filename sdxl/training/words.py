"""A small CLIP-style tokenizer, learned from captions."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from sdxl.checkpoint.vocabulary import WORD_END, write_tokenizer
from sdxl.errors import InputError

__all__ = ["learn_merges", "train_tokenizer"]

_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"  # as CLIP splits a text


def train_tokenizer(captions: Iterable[str], folder: Path, padding: str, merges: int = 128) -> None:
    """Writes a tokenizer whose tokens are the most frequent parts of the captions' words, and bytes for all other text.

    Its vocabulary has 2 x 256 + merges + 2 entries, a number that the text encoders' shapes contain.
    """
    learned = learn_merges(captions, merges)
    if len(learned) < merges:
        raise InputError(
            f"the captions have words for {len(learned)} merges only, expected {merges}: give more of them"
        )
    write_tokenizer(folder, padding, learned)


def learn_merges(captions: Iterable[str], count: int) -> list[str]:
    """At most `count` pairs of tokens that often stand side by side, in the order in which they are learned.

    >>> learn_merges(["a red ball", "a red box"], 2)
    ['e d</w>', 'r ed</w>']
    """
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import BPE
    from tokenizers.normalizers import Lowercase
    from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
    from tokenizers.trainers import BpeTrainer

    tokenizer = Tokenizer(BPE(end_of_word_suffix=WORD_END))
    tokenizer.normalizer = Lowercase()
    words = Split(Regex(_WORDS), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = Sequence([words, ByteLevel(add_prefix_space=False, use_regex=False)])
    letters = ByteLevel.alphabet()
    trainer = BpeTrainer(
        vocab_size=2 * len(letters) + count,
        initial_alphabet=letters,
        end_of_word_suffix=WORD_END,
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    learned = json.loads(tokenizer.to_str())["model"]["merges"]
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in learned[:count]]
