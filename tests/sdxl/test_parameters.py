"""The text that A1111's web UI writes into a PNG: what is written is read back, by us and by others."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sdxl.pictures import parameters
from sdxl.pictures.parameters import SAMPLERS, as_parameters, read_parameters
from sdxl.pictures.png import save_png
from sdxl.pipelines.schedulers import SCHEDULERS

SETTINGS = {"prompt": "a red house, (big:1.2)", "negative_prompt": "blurry: yes", "steps": 20, "scale": 7.5, "seed": 1,
            "scheduler": "euler-ancestral", "strength": 0.8, "model": "sd_xl_base_1.0"}  # fmt: skip
lines = st.text(st.characters(codec="utf-8", exclude_characters="\0\r")).map(str.strip)


def test_what_is_written_is_read_back() -> None:
    known = {name: value for name, value in SETTINGS.items() if name != "model"}
    assert read_parameters(as_parameters(SETTINGS, (512, 1024))) == known


@given(prompt=lines, seed=st.integers(0, 2**32))
def test_any_prompt_comes_back(prompt: str, seed: int) -> None:
    said = read_parameters(as_parameters({"prompt": prompt, "steps": 5, "seed": seed}))
    if parameters.NEGATIVE not in prompt:
        assert said.get("prompt", "") == prompt and (said["steps"], said["seed"]) == (5, seed)


@given(st.text())
def test_any_text_is_read_without_an_error(text: str) -> None:
    assert set(read_parameters(text)) <= set(SETTINGS)
    read_parameters("x\nSteps: 3, " + text)


def test_a_value_with_a_comma_is_quoted() -> None:
    text = as_parameters({"prompt": "x", "steps": 3, "model": 'a, "b": c', "seed": 4})
    assert r'Model: "a, \"b\": c"' in text
    assert read_parameters(text) == {"prompt": "x", "steps": 3, "seed": 4, "scheduler": "ddim"}


def test_every_scheduler_has_a_name_of_theirs() -> None:
    assert SAMPLERS.keys() == SCHEDULERS.keys()
    for ours in SAMPLERS:
        assert read_parameters(as_parameters({"prompt": "x", "steps": 3, "scheduler": ours}))["scheduler"] == ours


@pytest.mark.parametrize("number", ["9" * 400, "nan", "inf", "-", "1e400", "0x1"])
def test_what_is_no_number_is_left_out(number: str) -> None:
    said = read_parameters(f"a horse\nSteps: 3, CFG scale: {number}, Seed: {number}")
    assert said == {"prompt": "a horse", "steps": 3}


def test_another_program_reads_our_pictures(tmp_path: Path) -> None:
    sd_parsers = pytest.importorskip("sd_parsers", reason="needs sd-parsers: pip install '.[dev]'")
    save_png(Image.new("RGB", (16, 8)), tmp_path / "a.png", SETTINGS)
    found = sd_parsers.ParserManager().parse(tmp_path / "a.png")
    assert found is not None
    sampler = found.samplers[0]
    assert (sampler.name, sampler.model.name) == ("Euler a", "sd_xl_base_1.0")
    assert {str(prompt) for prompt in found.prompts} == {SETTINGS["prompt"]}
    assert {str(prompt) for prompt in found.negative_prompts} == {SETTINGS["negative_prompt"]}
    assert sampler.parameters["cfg_scale"] == "7.5" and sampler.parameters["seed"] == "1"


def test_examples() -> None:
    found = doctest.testmod(parameters)
    assert found.attempted and not found.failed
