"""Embeds prompts that the pipelines cannot embed by themselves: with weights, of any length, with layers skipped.

A prompt is cut into windows of 75 tokens, the length that the encoders were trained at, with a first and a last token
around each. Every window is encoded by itself, and the hidden states stand one behind the other. The pooled embedding
is the first window's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sdxl.errors import InputError
from sdxl.pipelines.emphasis import Piece, parse_emphasis, plain_text

__all__ = ["WORDS", "embedded", "prompt_tokens"]

WORDS = ("prompt", "prompt_2", "negative_prompt", "negative_prompt_2")
Row = list[tuple[int, float]]  # the tokens of one window, each with its weight


@torch.no_grad()
def embedded(pipe: Any, arguments: Mapping[str, Any], *, guided: bool) -> dict[str, Any]:
    """The arguments of a call, where needed with embeddings in the place of its prompts.

    Prompts without weights that fit into one window stay texts: the pipeline embeds them as ever.
    """
    prompts = _Prompts(pipe, arguments, guided)
    if prompts.are_plain and not arguments.get("clip_skip"):
        return {**arguments, **prompts.texts}
    others = {name: value for name, value in arguments.items() if name not in (*WORDS, "clip_skip")}
    found = _positive(prompts, arguments.get("clip_skip"))
    if guided:
        found |= _negative(prompts, found)
    return {**others, **found}


def prompt_tokens(pipe: Any, prompts: Mapping[str, str | None], *, guided: bool) -> int:
    """The number of tokens that the UNet reads of each prompt."""
    return _Prompts(pipe, prompts, guided).tokens


class _Prompts:
    """The prompts of a call, cut into windows for each text encoder of the pipeline."""

    def __init__(self, pipe: Any, arguments: Mapping[str, Any], guided: bool) -> None:
        given = {name: arguments[name] for name in WORDS if arguments.get(name) is not None}
        self.pieces = {name: parse_emphasis(text, name) for name, text in given.items()}
        self.texts = {name: plain_text(pieces) for name, pieces in self.pieces.items()}
        self.encoders = _encoders(pipe)
        self.positive = self._rows("prompt")
        forced = getattr(pipe.config, "force_zeros_for_empty_prompt", False)
        self.zeroed = bool(forced) and not {"negative_prompt", "negative_prompt_2"} & set(self.pieces)
        self.negative = self._rows("negative_prompt") if guided and not self.zeroed else []
        self.windows = max(len(rows) for rows in (*self.positive, *self.negative))

    @property
    def are_plain(self) -> bool:
        """Says whether the pipeline itself can embed the prompts."""
        return self.windows == 1 and None not in self.texts.values()

    @property
    def tokens(self) -> int:
        """The number of tokens, those around each window included."""
        return self.windows * self.encoders[0].length

    def _rows(self, name: str) -> list[list[Row]]:
        """The windows of the prompt for each encoder; the second reads `<name>_2` where that is given."""
        first = self.pieces.get(name, [])
        both = [first, self.pieces.get(f"{name}_2") or first]
        return [encoder.rows(pieces) for encoder, pieces in zip(self.encoders, both, strict=False)]


def _encoders(pipe: Any) -> list[_Encoder]:
    """The text encoders in the order in which the pipeline reads its prompts: one, or two; the refiner's is one."""
    is_sdxl = hasattr(pipe, "text_encoder_2")
    names = ("", "_2") if is_sdxl else ("",)
    pairs = [(getattr(pipe, f"tokenizer{name}"), getattr(pipe, f"text_encoder{name}")) for name in names]
    return [_Encoder(pipe, tokenizer, model, is_sdxl) for tokenizer, model in pairs if model is not None]


@dataclass(frozen=True)
class _Encoder:
    """A text encoder with its tokenizer."""

    pipe: Any
    tokenizer: Any
    model: Any
    is_sdxl: bool  # its hidden states are those before the last layer, and SD 1.5's are the last, normed

    @property
    def length(self) -> int:
        """The tokens of a window, the first and the last included."""
        return int(self.tokenizer.model_max_length)

    def rows(self, pieces: Sequence[Piece]) -> list[Row]:
        """The tokens of the pieces, cut into windows; an empty prompt has one empty window."""
        tokens = [(token, piece.weight) for piece in pieces for token in self._tokens(piece.text)]
        size = self.length - 2
        return [tokens[start : start + size] for start in range(0, max(len(tokens), 1), size)]

    def _tokens(self, text: str) -> list[int]:
        convert = getattr(self.pipe, "maybe_convert_prompt", None)
        text = text if convert is None else convert(text, self.tokenizer)  # a learned word may take several tokens
        return self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids  # type: ignore[no-any-return]

    def embed(
        self, rows: Sequence[Row], windows: int, skip: int | None
    ) -> tuple[Tensor, Tensor | None]:  # [1, tokens, C], and the pooled [1, P] where the encoder has one
        """The hidden states of the windows, filled up with empty ones, with their weights applied."""
        filled = [*rows, *[[]] * (windows - len(rows))]
        states, pooled = self._states(filled, skip)  # [windows, length, C]
        weights = torch.ones(states.shape[:2])
        for number, row in enumerate(filled):
            weights[number, 1 : len(row) + 1] = torch.tensor([weight for _, weight in row])
        if (weights != 1).any():
            states = _weighted(states, self._states([[]], skip)[0], weights.to(states.device))
        return states.flatten(0, 1)[None], pooled

    def _states(self, rows: Sequence[Row], skip: int | None) -> tuple[Tensor, Tensor | None]:  # [rows, length, C]
        begin, end, padding = (getattr(self.tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad"))
        tokens = [[begin, *(token for token, _ in row), end] for row in rows]
        padded = [row + [padding] * (self.length - len(row)) for row in tokens]
        found = self.model(torch.tensor(padded, device=self.model.device), output_hidden_states=True)
        pooled = found[0][:1] if found[0].ndim == 2 else None
        layers = found.hidden_states
        if self.is_sdxl:
            self._check_skip(skip, len(layers) - 2)
            return layers[-2 - (skip or 0)], pooled
        if not skip:
            return found[0], pooled
        self._check_skip(skip, len(layers) - 1)
        return getattr(self.model, "text_model", self.model).final_layer_norm(layers[-1 - skip]), pooled

    @staticmethod
    def _check_skip(skip: int | None, most: int) -> None:
        if skip is not None and skip > most:
            raise InputError(
                f"clip_skip: got {skip}, expected at most {most}: the text encoder has no more layers", "clip_skip"
            )


def _weighted(
    states: Tensor,  # [windows, length, C]
    empty: Tensor,  # [1, length, C], those of an empty window
    weights: Tensor,  # [windows, length]
) -> Tensor:  # [windows, length, C]
    """The states at `weight` times their distance from the empty prompt's; their mean stays as it was.

    The mean is kept by a shift: a ratio of means has no bound where the new mean is near zero.
    """
    plain, nothing = states.float(), empty.float()
    moved = nothing + weights[..., None] * (plain - nothing)
    return (moved + (plain.mean() - moved.mean())).to(states.dtype)


def _positive(prompts: _Prompts, skip: int | None) -> dict[str, Tensor]:
    pairs = zip(prompts.encoders, prompts.positive, strict=True)
    return _side_by_side([encoder.embed(rows, prompts.windows, skip) for encoder, rows in pairs], "")


def _negative(prompts: _Prompts, positive: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of the negative prompt; as in the pipelines, no layer is skipped, and SDXL's base reads zeros for none."""
    if prompts.zeroed:
        return {f"negative_{name}": torch.zeros_like(tensor) for name, tensor in positive.items()}
    pairs = zip(prompts.encoders, prompts.negative, strict=True)
    return _side_by_side([encoder.embed(rows, prompts.windows, None) for encoder, rows in pairs], "negative_")


def _side_by_side(found: Sequence[tuple[Tensor, Tensor | None]], prefix: str) -> dict[str, Tensor]:
    """The encoders' states [1, tokens, C] in one tensor and the pooled ones [1, P], under the pipelines' names."""
    embeddings = {f"{prefix}prompt_embeds": torch.cat([states for states, _ in found], dim=-1)}
    pooled = [one for _, one in found if one is not None]
    return embeddings | ({f"{prefix}pooled_prompt_embeds": pooled[0]} if pooled else {})
