"""The search for weights by their usual names, and the message that says what to download."""

from __future__ import annotations

import doctest
import shutil
from pathlib import Path

import pytest

from sdxl.checkpoint import find
from sdxl.checkpoint.configs import KINDS
from sdxl.checkpoint.find import find_weights
from sdxl.checkpoint.tiny import tiny_weights
from sdxl.errors import InputError


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_found_among_all(kind: str, tiny: dict[str, Path]) -> None:
    assert find_weights(tiny[kind].parent, kind) == tiny[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_or_a_diffusers_folder_is_itself(kind: str, tmp_path: Path) -> None:
    (tmp_path / "any.safetensors").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "model_index.json").touch()
    assert find_weights(tmp_path / "any.safetensors", kind) == tmp_path / "any.safetensors"
    assert find_weights(tmp_path / "folder", kind) == tmp_path / "folder"


@pytest.mark.parametrize(
    ("names", "kind", "found"),
    [
        (["sd_xl_base_1.0_0.9vae.safetensors"], "sdxl-base", "sd_xl_base_1.0_0.9vae.safetensors"),
        (["sd_xl_base_1.0_inpainting_0.1.safetensors"], "sdxl-base", None),
        (["sd_xl_base_1.0_inpainting.safetensors"], "sdxl-inpaint", "sd_xl_base_1.0_inpainting.safetensors"),
        (["sd_xl_base_1.0.safetensors"], "sdxl-inpaint", None),
        (["sd_xl_turbo_1.0_fp16.safetensors"], "sdxl-turbo", "sd_xl_turbo_1.0_fp16.safetensors"),
        (["v1-5-pruned.safetensors", "v1-5-pruned-emaonly.safetensors"], "sd15", "v1-5-pruned-emaonly.safetensors"),
        (["v1-5-pruned.safetensors"], "sd15", "v1-5-pruned.safetensors"),
    ],
)
def test_names(names: list[str], kind: str, found: str | None, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).touch()
    if found is None:
        with pytest.raises(InputError):
            find_weights(tmp_path, kind)
    else:
        assert find_weights(tmp_path, kind) == tmp_path / found


def test_diffusers_folders_are_found_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "stable-diffusion-xl-1.0-inpainting-0.1"
    folder.mkdir()
    with pytest.raises(InputError):
        find_weights(tmp_path, "sdxl-inpaint")
    (folder / "model_index.json").touch()
    assert find_weights(tmp_path, "sdxl-inpaint") == folder


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_missing_is_said_with_the_command(kind: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        find_weights(tmp_path / "pretrained", kind)
    text = str(raised.value)
    assert f"no {kind} weights: looked for " in text
    assert "run: hf download " in text and str(tmp_path / "pretrained") in text
    with pytest.raises(InputError, match="no such file; run: hf download"):
        find_weights(tmp_path / "x.safetensors", kind)


def test_unknown_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="kind: got 'sd3'"):
        find_weights(tmp_path, "sd3")


def test_examples(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SIGE_CACHE", str(tmp_path))
    found = doctest.testmod(find, extraglobs={"tiny_weights": tiny_weights})
    assert found.attempted and not found.failed
    shutil.rmtree(tmp_path)
