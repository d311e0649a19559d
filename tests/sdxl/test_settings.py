"""Settings: what is kept, what a PNG gives back, and which values are refused by themselves."""

from __future__ import annotations

import doctest
import json
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import sdxl.commands.settings
from sdxl.commands import rules
from sdxl.commands.settings import UNSAVED, Settings
from sdxl.errors import InputError

INPAINTING: dict[str, Any] = {
    "prompt": "a horse",
    "init_img": Path("a.png"),
    "mask_path": Path("m.npy"),
    "output_path": Path("b.png"),
    "seed": 5,
}
OTHER: dict[str, dict[str, Any]] = {  # for each setting a value that is not its default, and what that needs
    "task": {"task": "sdedit", "edited_img": Path("e.png"), "mask_path": None},
    "run_type": {"run_type": "sige-turbo", "steps": 4, "scale": 0.0},
    "refined": {"refined": True},
    "model": {"model": "tiny"},
    "prompt": {"prompt": "ein Pferd auf der Wiese — 馬"},
    "negative_prompt": {"negative_prompt": "blurred"},
    "prompt_2": {"prompt_2": "oil"},
    "negative_prompt_2": {"negative_prompt_2": "ink"},
    "init_img": {"init_img": Path("folder with spaces/c.png")},
    "mask_path": {"mask_path": Path("n.png")},
    "edited_img": {"task": "sdedit", "edited_img": Path("f.png"), "mask_path": None},
    "keep": {"keep": "nothing", "task": "sdedit", "edited_img": Path("g.png"), "mask_path": None},
    "clip_skip": {"clip_skip": 2},
    "grow": {"grow": 8},
    "mask_blur": {"mask_blur": 12},
    "match_edge": {"match_edge": 24},
    "only_masked": {"only_masked": 64},
    "height": {"height": 512},
    "width": {"width": 1024},
    "steps": {"steps": 7},
    "scale": {"scale": 3.0},
    "eta": {"eta": 0.5},
    "strength": {"strength": 0.25},
    "seed": {"seed": 2**63 - 1},
    "scheduler": {"scheduler": "unipc"},
    "denoising_split": {"denoising_split": 0.8, "refined": True},
    "original_size": {"original_size": (512, 768)},
    "target_size": {"target_size": (512, 768)},
    "crops_coords_top_left": {"crops_coords_top_left": (0, 64)},
    "negative_original_size": {"negative_original_size": (64, 64)},
    "negative_target_size": {"negative_target_size": (64, 64)},
    "negative_crops_coords_top_left": {"negative_crops_coords_top_left": (8, 0)},
    "policy": {"policy": "lockstep", "run_type": "sige"},
    "preset": {"preset": "fast", "run_type": "sige"},
    "dense_steps": {"dense_steps": (0, 2, 5), "run_type": "sige"},
    "skipped_steps": {"skipped_steps": (6, 8), "run_type": "sige"},
    "half_steps": {"half_steps": (0, 5), "run_type": "sige"},
    "outer_steps": {"outer_steps": (5, 9), "run_type": "sige"},
    "schedule": {"schedule": "even", "run_type": "sige"},
    "forecast": {"forecast": "linear", "run_type": "sige"},
    "dilation": {"dilation": 0, "run_type": "sige"},
    "tome_ratio": {"tome_ratio": 0.25},
    "tome_max_downsample": {"tome_max_downsample": 4, "tome_ratio": 0.5},
    "tome_sx": {"tome_sx": 4, "tome_ratio": 0.8},
    "tome_sy": {"tome_sy": 1, "tome_ratio": 0.5},
    "tome_use_rand": {"tome_use_rand": False, "tome_ratio": 0.5},
    "tome_merge_attn": {"tome_merge_attn": False, "tome_merge_mlp": True, "tome_ratio": 0.5},
    "tome_merge_crossattn": {"tome_merge_crossattn": True, "tome_ratio": 0.5},
    "tome_merge_mlp": {"tome_merge_mlp": True, "tome_ratio": 0.5},
    "config_path": {"config_path": Path("elsewhere")},
    "weight_path": {"weight_path": Path("/weights")},
    "lora": {"lora": ("a.safetensors", "b.safetensors:0.5")},
    "textual_inversion": {"textual_inversion": ("c.safetensors",)},
    "vae": {"vae": Path("vae.safetensors")},
    "controlnet": {"controlnet": Path("canny"), "control_image": Path("edges.png")},
    "control_image": {"controlnet": Path("canny"), "control_image": Path("edges.png")},
    "control_scale": {"control_scale": 0.5, "controlnet": Path("canny"), "control_image": Path("edges.png")},
    "attention": {"attention": "sliced"},
    "offload": {"offload": "model", "device": "cuda"},
    "device": {"device": "cuda:1"},
    "dtype": {"dtype": "bf16"},
}


def test_the_examples() -> None:
    assert doctest.testmod(sdxl.commands.settings).failed == 0


@pytest.mark.parametrize("name", [item.name for item in fields(Settings) if item.name not in UNSAVED])
def test_every_setting_comes_back_from_its_dictionary(name: str) -> None:
    settings = Settings(**INPAINTING | OTHER[name])
    assert getattr(settings, name) == OTHER[name][name] != getattr(Settings(**INPAINTING), name)
    saved = json.loads(json.dumps(settings.to_dict()))
    assert Settings.from_dict(saved | {"output_path": "b.png"}) == settings


def test_where_it_was_written_is_not_saved() -> None:
    assert not set(UNSAVED) & set(Settings(**INPAINTING).to_dict())


def test_a_seed_is_drawn_and_saved() -> None:
    seeds = {Settings(**{**INPAINTING, "seed": seed}).seed for seed in (5, 5)}
    assert seeds == {5}
    del_seed = {name: value for name, value in INPAINTING.items() if name != "seed"}
    drawn = [Settings(**del_seed) for _ in range(4)]
    assert len({settings.seed for settings in drawn}) > 1
    assert all(settings.to_dict()["seed"] == settings.seed for settings in drawn)


@pytest.mark.parametrize(
    ("said", "steps", "scale"),
    [
        ({}, 50, 7.5),
        ({"run_type": "sige"}, 50, 7.5),
        ({"run_type": "turbo"}, 4, 0.0),
        ({"run_type": "sige-turbo"}, 4, 0.0),
        ({"run_type": "turbo", "steps": 2, "scale": 1.5}, 2, 1.5),
    ],
)
def test_turbo_has_defaults_of_its_own(said: dict[str, Any], steps: int, scale: float) -> None:
    settings = Settings.from_dict(INPAINTING | said)
    assert (settings.steps, settings.scale) == (steps, scale)


@pytest.mark.parametrize(
    ("run_type", "sparse", "turbo"),
    [("original", False, False), ("sige", True, False), ("turbo", False, True), ("sige-turbo", True, True)],
)
def test_what_a_run_type_means(run_type: str, sparse: bool, turbo: bool) -> None:
    settings = Settings(**INPAINTING, run_type=run_type)
    assert (settings.sparse, settings.turbo) == (sparse, turbo)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"promt": "x"}, "settings: got 'promt', expected one of .*; did you mean prompt"),
        ({"steps": "many"}, "--ddim_steps: got 'many', expected a whole number"),
        ({"steps": True}, "--ddim_steps: got True"),
        ({"steps": 2.5}, "--ddim_steps: got 2.5"),
        ({"scale": "7"}, "--scale: got '7', expected a number"),
        ({"prompt": 7}, "--prompt: got 7, expected text"),
        ({"prompt": ["a"]}, "--prompt: got"),
        ({"init_img": 3}, "--init_img: got 3, expected the name of a file"),
        ({"refined": "True"}, "--refined: got 'True', expected true or false"),
        ({"refined": 1}, "--refined: got 1, expected true or false"),
        ({"lora": "a"}, "--lora: got 'a', expected a list"),
        ({"lora": [1]}, "--lora: got"),
        ({"original_size": [512]}, "--original_size: got"),
        ({"original_size": [512, 512, 512]}, "--original_size: got"),
        ({"original_size": ["512", "512"]}, "--original_size: got"),
        ({"dense_steps": ["0"], "run_type": "sige"}, "--dense_steps: got"),
        ({"run_type": 5}, "--run_type: got 5"),
        ({"scale": float("nan")}, "--scale: got nan"),
        ({"eta": float("inf")}, "--ddim_eta: got inf"),
        ({"strength": float("nan")}, "--strength: got nan"),
    ],
)
def test_a_dictionary_from_anywhere_is_checked(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Settings.from_dict(INPAINTING | values)


def test_the_names_are_those_that_the_parts_know() -> None:
    from sdxl.pipelines.load import TASKS
    from sdxl.pipelines.schedulers import SCHEDULERS
    from sige.policies import FORECASTS, POLICIES
    from sige.policies import SCHEDULES as GAPS

    assert set(rules.NAMES["policy"]) == set(POLICIES)
    assert set(rules.NAMES["schedule"]) == set(GAPS)
    assert set(rules.NAMES["forecast"]) == set(FORECASTS)
    assert set(rules.NAMES["scheduler"]) == set(SCHEDULERS)
    assert set(rules.NAMES["task"]) == set(TASKS) == set(rules.NEEDED)


def test_every_rule_is_about_a_setting() -> None:
    named = {*rules.NAMES, *rules.PICTURES, *rules.POLICY, *rules.PROFILE, *rules.SIZES, *rules.CROPS, *rules.NEGATIVE}
    assert named <= set(get_type_hints(Settings))
