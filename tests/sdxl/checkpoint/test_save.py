"""Saving and loading again: single files, diffusers folders, and both read by diffusers itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sdxl.checkpoint.configs import KINDS
from sdxl.checkpoint.header import read_header
from sdxl.checkpoint.load import Parts, load
from sdxl.checkpoint.save import PIPELINES, save_folder, save_single_file
from sdxl.commands.export import main
from sdxl.errors import CheckpointError, InputError
from sige.errors import OutputError

SAVED = ("sdxl-base", "sdxl-inpaint", "sdxl-refiner", "sd15")  # turbo goes both ways in the test of the command
QUIET = {"progress": False, "tokenizers": False}


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert set(found) == set(expected)
    for part, model in expected.items():
        after, before = found[part].state_dict(), model.state_dict()
        assert set(after) == set(before), part
        for name, tensor in before.items():
            assert after[name].dtype == tensor.dtype and after[name].equal(tensor), f"{part}.{name}"


@pytest.fixture(scope="session")
def folders(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The small checkpoints as diffusers folders."""
    base = tmp_path_factory.mktemp("folders")
    for kind in SAVED:
        save_folder(load(tiny[kind], progress=False), base / kind)
    return {kind: base / kind for kind in SAVED}


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [*((kind, torch.float32) for kind in KINDS), ("sdxl-base", torch.float16)],
)
def test_a_single_file_and_back(kind: str, dtype: torch.dtype, tiny: dict[str, Path], tmp_path: Path) -> None:
    before = load(tiny[kind], dtype=dtype, **QUIET)
    save_single_file(before, tmp_path / "out.safetensors", metadata={"made by": "us"})
    after = load(tmp_path / "out.safetensors", **QUIET)
    assert after.kind == kind
    assert_same(after.models(), before.models())
    assert read_header(tmp_path / "out.safetensors").metadata["made by"] == "us"


def test_the_same_parts_give_the_same_bytes(tiny: dict[str, Path], tmp_path: Path) -> None:
    save_single_file(load(tiny["sdxl-base"], **QUIET), tmp_path / "out.safetensors")
    assert (tmp_path / "out.safetensors").read_bytes() == tiny["sdxl-base"].read_bytes()


def test_another_dtype(tiny: dict[str, Path], tmp_path: Path) -> None:
    save_single_file(load(tiny["sdxl-base"], **QUIET), tmp_path / "out.safetensors", dtype=torch.float16)
    assert {stored.dtype for stored in read_header(tmp_path / "out.safetensors").tensors.values()} == {"F16"}


@pytest.mark.parametrize("kind", SAVED)
def test_a_folder_and_back(
    kind: str, folders: dict[str, Path], tmp_path: Path, original: Callable[[str], Parts]
) -> None:
    parts = load(folders[kind], progress=False)
    assert parts.kind == kind
    assert_same(parts.models(), original(kind).models())
    assert (parts.tokenizer is not None, parts.tokenizer_2 is not None) == (
        parts.text_encoder is not None,
        parts.text_encoder_2 is not None,
    )
    save_single_file(parts, tmp_path / "x.safetensors")
    assert_same(load(tmp_path / "x.safetensors", **QUIET).models(), original(kind).models())


@pytest.mark.parametrize("kind", ["sdxl-refiner", "sd15"])
def test_diffusers_reads_the_folders(kind: str, folders: dict[str, Path], original: Callable[[str], Parts]) -> None:
    import diffusers

    pipe = getattr(diffusers, PIPELINES[kind]).from_pretrained(folders[kind], local_files_only=True)
    assert_same({part: getattr(pipe, part) for part in original(kind).models()}, original(kind).models())


@pytest.mark.parametrize("kind", SAVED)
def test_diffusers_reads_the_single_files_as_we_do(
    kind: str, tiny: dict[str, Path], folders: dict[str, Path], original: Callable[[str], Parts]
) -> None:
    """Diffusers' own converter checks our mapping independently; it takes the shapes from the folder."""
    import diffusers

    pipe = getattr(diffusers, PIPELINES[kind]).from_single_file(
        str(tiny[kind]), config=str(folders[kind]), local_files_only=True
    )
    assert_same({part: getattr(pipe, part) for part in original(kind).models()}, original(kind).models())


# ---- folders as others write them -----------------------------------------------------------------------------------


@pytest.fixture
def folder(folders: dict[str, Path], tmp_path: Path) -> Path:
    import shutil

    shutil.copytree(folders["sdxl-base"], tmp_path / "model")
    return tmp_path / "model"


def rewrite(path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], target: Path | None = None) -> None:
    from safetensors.torch import load_file, save_file

    tensors = change(load_file(path))
    path.unlink()
    save_file(tensors, target or path)


def test_names_of_older_folders(folder: Path, original: Callable[[str], Parts]) -> None:
    """Older folders have `text_model.` in front of all names, and other names for the VAE's attention."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        for new, name in old.items():
            tensors = {key.replace(f"attentions.0.{new}.", f"attentions.0.{name}."): t for key, t in tensors.items()}
        return tensors

    rewrite(folder / "vae" / "diffusion_pytorch_model.safetensors", rename)
    rewrite(
        folder / "text_encoder" / "model.safetensors",
        lambda tensors: {f"text_model.{key.removeprefix('text_model.')}": t for key, t in tensors.items()},
    )
    assert_same(load(folder, **QUIET).models(), original("sdxl-base").models())


def test_fp16_files_and_files_in_pieces(folder: Path, original: Callable[[str], Parts]) -> None:
    vae, unet = folder / "vae", folder / "unet"
    rewrite(vae / "diffusion_pytorch_model.safetensors", dict, vae / "diffusion_pytorch_model.fp16.safetensors")
    from safetensors.torch import load_file, save_file

    tensors = load_file(unet / "diffusion_pytorch_model.safetensors")
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    names = sorted(tensors)
    for number, part in enumerate((names[::2], names[1::2]), 1):
        name = f"diffusion_pytorch_model-{number:05}-of-00002.safetensors"
        save_file({key: tensors[key] for key in part}, unet / name)
    assert_same(load(folder, **QUIET).models(), original("sdxl-base").models())
    (unet / "diffusion_pytorch_model-00001-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="has 1 of 2 files"):
        load(folder, **QUIET)


def _remove_key(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in tensors.items() if key != "conv_out.bias"}


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no index": (lambda folder: (folder / "model_index.json").unlink(), "has no model_index.json"),
    "a broken index": (lambda folder: (folder / "model_index.json").write_text("{"), "cannot be read"),
    "an index of nothing": (lambda folder: (folder / "model_index.json").write_text("{}"), "names no unet"),
    "no config": (lambda folder: (folder / "unet" / "config.json").unlink(), "config.json: is missing"),
    "no weights": (
        lambda folder: (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink(),
        "has no diffusion",
    ),
    "a key missing": (
        lambda folder: rewrite(folder / "unet" / "diffusion_pytorch_model.safetensors", _remove_key),
        "keys missing: conv_out.bias",
    ),
    "truncated": (
        lambda folder: (folder / "text_encoder_2" / "model.safetensors").write_bytes(b"123456789"),
        "is ",
    ),
    "no scheduler": (lambda folder: (folder / "scheduler" / "scheduler_config.json").unlink(), "is missing"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_promise_2_folders_are_checked_as_files_are(name: str, folder: Path) -> None:
    change, message = FAULTS[name]
    change(folder)
    with pytest.raises((CheckpointError, InputError), match=message):
        load(folder, **QUIET)


# ---- the command ----------------------------------------------------------------------------------------------------


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_the_command_goes_both_ways(tiny: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tiny["sdxl-turbo"], tmp_path / "turbo") == 0
    assert run(tmp_path / "turbo", tmp_path / "back.safetensors") == 0
    assert (tmp_path / "back.safetensors").read_bytes() == tiny["sdxl-turbo"].read_bytes()
    assert run(tmp_path / "turbo", tmp_path / "half.safetensors", "--dtype", "fp16") == 0
    assert load(tmp_path / "half.safetensors", **QUIET).unet.dtype == torch.float16
    capsys.readouterr()
    for arguments, text in (
        ([tmp_path / "turbo", tmp_path / "back.safetensors"], "add --force"),
        ([tiny["sdxl-turbo"], tmp_path / "turbo"], "exists"),
        ([tiny["sdxl-turbo"], tmp_path / "absent" / "turbo"], "does not exist"),
        ([tmp_path / "absent", tmp_path / "x.safetensors"], "no such file"),
    ):
        assert run(*arguments) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: ") and text in error
    assert run(tmp_path / "turbo", tmp_path / "back.safetensors", "--force") == 0


def test_promise_7_a_folder_is_written_whole_or_not_at_all(
    tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import diffusers

    parts: Parts = load(tiny["sd15"], progress=False)

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(diffusers.UNet2DConditionModel, "save_pretrained", fail)  # others are written by then
    with pytest.raises(OutputError, match="out: not written, the disk is full"):
        save_folder(parts, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_copy_of_another_size_is_still_known_in_a_folder(folders: dict[str, Path]) -> None:
    assert json.loads((folders["sdxl-base"] / "model_index.json").read_text())["_sige_config"] == "tiny"


def test_the_command_says_what_it_wrote(
    tiny: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count = sum(model.num_parameters() for model in load(tiny["sd15"], **QUIET).models().values())
    assert run(tiny["sd15"], tmp_path / "folder") == 0
    files = [path for path in (tmp_path / "folder").rglob("*") if path.is_file()]
    line = capsys.readouterr().out.strip()
    assert line.startswith(f"wrote {tmp_path / 'folder'}: sd15, diffusers folder of {len(files)} files, ")
    assert line.endswith(f"{count:,} parameters in float32")
    assert run(tmp_path / "folder", tmp_path / "half.safetensors", "--dtype", "fp16", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["kind"], facts["layout"], facts["files"]) == ("sd15", "single file", 1)
    assert facts["bytes"] == (tmp_path / "half.safetensors").stat().st_size
    assert (facts["dtype"], sum(facts["parameters"].values())) == ("float16", count)
