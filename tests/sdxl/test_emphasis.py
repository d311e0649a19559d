"""Prompts with weights, prompts beyond one window, skipped layers: against the pipelines' own embeddings."""

from __future__ import annotations

import doctest
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import sige
from sdxl.edits.calling import pipeline_arguments, tokens_of
from sdxl.edits.edit import edit
from sdxl.edits.sampling import Sampling
from sdxl.errors import InputError
from sdxl.pipelines import emphasis
from sdxl.pipelines.embedding import embedded, prompt_tokens
from sdxl.pipelines.emphasis import parse_emphasis, plain_text
from tests.sdxl.edits import load, picture, rectangle, sampling

LONG = "a red ball on the green grass, " * 4  # the small vocabulary has little more than letters: two windows
MODELS = ("sdxl", "sd15", "refiner")


@pytest.fixture(scope="module")
def pipes(project_folder: Path) -> dict[str, Any]:
    return {
        "sdxl": load(project_folder, "inpainting"),
        "sd15": load(project_folder, "inpainting", model="sd15"),
        "refiner": load(project_folder, "inpainting", refiner=True),
    }


def stock(pipe: Any, skip: int | None = None, **prompts: str) -> tuple[Tensor, ...]:
    """The pipeline's own embeddings: of the prompt and the negative prompt, then the pooled ones."""
    with torch.no_grad():
        found = pipe.encode_prompt(
            **{"prompt": "", **prompts},
            device="cpu",
            num_images_per_prompt=1,
            do_classifier_free_guidance=True,
            clip_skip=skip,
        )
    return tuple(found)


def ours(pipe: Any, **arguments: Any) -> tuple[Tensor, ...]:
    """Our embeddings, in the same order; a pair of weights that cancel each other makes us embed plain prompts, too."""
    made = embedded(pipe, {"prompt": "", **arguments}, guided=True)
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    return tuple(made[name] for name in names if name in made)


# ---- brackets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("", []),
        ("a horse", [("a horse", 1)]),
        ("a (horse)", [("a ", 1), ("horse", 1.1)]),
        ("a [horse]", [("a ", 1), ("horse", 0.909091)]),
        ("a ((horse))", [("a ", 1), ("horse", 1.21)]),
        ("a (red:1.5) horse", [("a ", 1), ("red", 1.5), (" horse", 1)]),
        ("(red: 0.5 )", [("red", 0.5)]),
        ("(a (red:2) ball:1.5)", [("a ", 1.5), ("red", 3), (" ball", 1.5)]),
        ("([a])", [("a", 1)]),
        ("(a:0)", [("a", 0)]),
        (r"a \(red\) ball", [("a (red) ball", 1)]),
        (r"back\\slash \n", [(r"back\slash \n", 1)]),
        ("(a (red ball)", [("(a ", 1), ("red ball", 1.1)]),
        ("a) ball]", [("a) ball]", 1)]),
        ("(a] ball", [("(a] ball", 1)]),
        ("(12:30:1.2)", [("12:30", 1.2)]),
        ("[a:1.2]", [("a:1.2", 0.909091)]),
        ("()", []),
    ],
)
def test_what_brackets_mean(prompt: str, expected: list[tuple[str, float]]) -> None:
    assert parse_emphasis(prompt) == expected


def test_a_prompt_without_weights_is_its_text() -> None:
    assert plain_text(parse_emphasis(r"a \(red\) ball")) == "a (red) ball"
    assert plain_text(parse_emphasis("a (red) ball")) is None
    assert plain_text([]) == ""


@pytest.mark.parametrize("weight", ["-1", "10.5", "1000"])
def test_weights_out_of_range_are_refused_with_their_prompt(weight: str) -> None:
    with pytest.raises(
        InputError, match=f"negative_prompt: got the weight {weight}, expected a number from 0"
    ) as caught:
        Sampling("a horse", negative_prompt=f"(grey:{weight})")
    assert caught.value.field == "negative_prompt"


@pytest.mark.parametrize("prompt", ["(a (b:5):5)", "(" * 40 + "a" + ")" * 40])
def test_brackets_in_brackets_are_refused_beyond_the_heaviest(prompt: str) -> None:
    with pytest.raises(InputError, match="prompt: got the weight .*, expected a number from 0 to 10"):
        Sampling(prompt)


@pytest.mark.parametrize("prompt", ["[a" * 3000 + "]" * 3000, "(" * 9999, ")" * 9999, "\\" * 9999, "a:1" * 3333])
def test_brackets_without_sense_take_no_time(prompt: str) -> None:
    began = perf_counter()
    parse_emphasis(prompt[:10_000])
    assert perf_counter() - began < 5
    with pytest.raises(InputError, match="prompt: got 10,001 characters, expected at most 10,000"):
        parse_emphasis("a" * 10_001)


def test_examples() -> None:
    assert doctest.testmod(emphasis).failed == 0


# ---- the pipelines' own embeddings -----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("prompt", ["", "a red ball", "b " * 75])
def test_plain_prompts_stay_texts(pipes: dict[str, Any], model: str, prompt: str) -> None:
    made = embedded(pipes[model], {"prompt": prompt, "negative_prompt": None}, guided=True)
    assert made == {"prompt": prompt, "negative_prompt": None}


@pytest.mark.parametrize("model", MODELS)
def test_one_window_is_the_pipeline_s_own_bit_for_bit(pipes: dict[str, Any], model: str) -> None:
    """Clip skip makes us embed a plain prompt by ourselves."""
    pipe = pipes[model]
    second = {"prompt_2": "an oil painting"} if model == "sdxl" else {}
    own = stock(pipe, None if model == "sd15" else 1, prompt="a red ball", negative_prompt="grey", **second)
    made = ours(pipe, prompt="a red ball", negative_prompt="grey", clip_skip=1, **second)
    found = [tensor for tensor in own if tensor is not None]
    assert len(found) == len(made)
    for number, (one, other) in enumerate(zip(found, made, strict=True)):
        if model == "sd15" and number == 0:
            continue  # the pipeline's own clip_skip needs an older transformers: see the next test
        assert torch.equal(one, other)


def test_sd15_norms_what_is_left_after_a_skip(pipes: dict[str, Any]) -> None:
    pipe = pipes["sd15"]
    tokens = pipe.tokenizer("a ball", padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.no_grad():
        layers = pipe.text_encoder(tokens, output_hidden_states=True).hidden_states
        model = getattr(pipe.text_encoder, "text_model", pipe.text_encoder)
        expected = model.final_layer_norm(layers[-2])
    assert torch.equal(ours(pipe, prompt="a ball", clip_skip=1)[0], expected)


@pytest.mark.parametrize("model", MODELS)
def test_a_skip_of_more_layers_than_there_are_is_refused(pipes: dict[str, Any], model: str) -> None:
    with pytest.raises(InputError, match="clip_skip: got 9, expected at most") as caught:
        ours(pipes[model], prompt="a ball", clip_skip=9)
    assert caught.value.field == "clip_skip"


def test_without_a_negative_prompt_the_base_reads_zeros(pipes: dict[str, Any]) -> None:
    made = ours(pipes["sdxl"], prompt="a (red) ball")
    assert made[1].count_nonzero() == made[3].count_nonzero() == 0
    assert ours(pipes["refiner"], prompt="a (red) ball")[1].count_nonzero() > 0


# ---- long prompts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_a_long_prompt_is_its_windows_one_behind_the_other(pipes: dict[str, Any], model: str) -> None:
    pipe = pipes[model]
    words = ("b " * 75, "c " * 75, "d")
    made = ours(pipe, prompt="".join(words), negative_prompt="grey")
    windows = [stock(pipe, prompt=text.strip())[0] for text in words]
    assert torch.allclose(made[0], torch.cat(windows, dim=1), atol=1e-5)  # in one batch: not bit for bit
    empty = stock(pipe, prompt="x", negative_prompt="")[1]
    negative = stock(pipe, prompt="x", negative_prompt="grey")[1]
    assert torch.allclose(made[1], torch.cat([negative, empty, empty], dim=1), atol=1e-5)
    if model != "sd15":
        assert torch.allclose(made[2], stock(pipe, prompt=words[0].strip())[2], atol=1e-5)  # pooled: the first window's


def test_the_longest_of_all_prompts_decides(pipes: dict[str, Any]) -> None:
    pipe = pipes["sdxl"]
    for longest in ("prompt", "prompt_2", "negative_prompt", "negative_prompt_2"):
        arguments = {"prompt": "a", "prompt_2": "b", "negative_prompt": "c", "negative_prompt_2": "d", longest: LONG}
        assert ours(pipe, **arguments)[0].shape[1] == ours(pipe, **arguments)[1].shape[1] == 154
        assert prompt_tokens(pipe, arguments, guided=True) == 154
    assert prompt_tokens(pipe, {"prompt": "a", "negative_prompt": LONG}, guided=False) == 77


# ---- weights ---------------------------------------------------------------------------------------------------------


def test_a_weight_moves_the_words_states_away_from_the_empty_prompt_s_and_keeps_the_mean(pipes: dict[str, Any]) -> None:
    pipe = pipes["sd15"]
    plain, empty = stock(pipe, prompt="red ball")[0], stock(pipe, prompt="")[0]
    (count,) = {len(pipe.tokenizer("red", add_special_tokens=False).input_ids)}
    made = ours(pipe, prompt="(red:1.5) ball")[0]
    moved = plain.clone()
    moved[:, 1 : 1 + count] = empty[:, 1 : 1 + count] + 1.5 * (plain - empty)[:, 1 : 1 + count]
    assert torch.allclose(made, moved + (plain.mean() - moved.mean()), atol=1e-5)
    assert made.mean() == pytest.approx(float(plain.mean()), abs=1e-6)
    assert not torch.allclose(made, plain, atol=1e-3)


def test_the_pooled_embedding_has_no_weights(pipes: dict[str, Any]) -> None:
    assert torch.equal(ours(pipes["sdxl"], prompt="(red:1.5) ball")[2], stock(pipes["sdxl"], prompt="red ball")[2])


# ---- edits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["sdxl", "sd15"])
def test_a_long_weighted_prompt_runs_packed(pipes: dict[str, Any], model: str) -> None:
    pipe, mask = pipes[model], rectangle()
    asked = sampling(prompt=LONG + "(a tent:1.4)", negative_prompt="[grey]")
    dense = edit(pipe, picture(), mask=mask, sampling=asked)
    every = edit(pipe, picture(), mask=mask, sampling=asked, policy=sige.Temporal(dense_steps=5))
    some = edit(pipe, picture(), mask=mask, sampling=asked, policy=sige.Temporal(dense_steps=2))
    lockstep = edit(pipe, picture(), mask=mask, sampling=asked, policy=sige.Lockstep())
    assert lockstep.passes["unet"].packed == 5
    # An enabled model's weights are channels-last, and MKL may round otherwise with them: a grey level at most.
    assert np.abs(np.asarray(dense.image, dtype=int) - np.asarray(every.image, dtype=int)).max() <= 1
    assert some.passes["unet"].packed == 3
    outside = mask == 0
    assert np.array_equal(np.asarray(some.image)[outside], np.asarray(picture())[outside])
    plain = edit(pipe, picture(), mask=mask, sampling=sampling(prompt="a tent"))
    assert not np.array_equal(np.asarray(dense.image), np.asarray(plain.image))
    if model == "sdxl":
        assert dense.macs > plain.macs and 0 < some.work < 1  # attention to more tokens is counted


def test_without_guidance_the_negative_prompt_is_not_read(pipes: dict[str, Any]) -> None:
    asked = sampling(prompt="a (red:1.3) ball", scale=0.0)
    made = [
        edit(pipes["sdxl"], picture(), mask=rectangle(), sampling=one).image
        for one in (asked, replace(asked, negative_prompt=LONG))
    ]
    assert np.array_equal(*(np.asarray(image) for image in made))


def test_a_refiner_reads_the_whole_prompt_too(pipes: dict[str, Any]) -> None:
    made = [
        edit(pipes["sdxl"], picture(), mask=rectangle(), sampling=sampling(prompt=prompt), refiner=pipes["refiner"])
        for prompt in (LONG + "a tent", LONG + "a boat")
    ]
    assert made[0].steps == (5, 1)
    assert not np.array_equal(*(np.asarray(one.image) for one in made))


def test_the_arguments_of_a_call(pipes: dict[str, Any]) -> None:
    asked = sampling(prompt="a (red) ball", clip_skip=1)
    arguments = pipeline_arguments(pipes["sdxl"], "inpainting", (64, 64), asked)
    assert not {"prompt", "negative_prompt", "clip_skip"} & set(arguments)
    assert tokens_of(pipes["sdxl"], asked) == arguments["prompt_embeds"].shape[1] == 77
