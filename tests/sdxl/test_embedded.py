"""The embedded model: where it is, when it is taken, and how a trained checkpoint becomes it."""

from __future__ import annotations

import doctest
import importlib.util
import json
import logging
import re
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image

import sdxl.checkpoint.embedded
from sdxl.checkpoint.configs import load_shapes
from sdxl.checkpoint.embedded import EMBEDDED, FILES, embedded_folder, embedded_kind, embedded_weights
from sdxl.checkpoint.load import load
from sdxl.checkpoint.models import build_parts
from sdxl.checkpoint.save import save_single_file
from sdxl.checkpoint.tiny import tiny_weights
from sdxl.commands.main import main
from sdxl.commands.settings import Settings
from sdxl.commands.weights import choose_weights
from sdxl.errors import CheckpointError
from sdxl.pictures.png import read_settings
from sdxl.pipelines import load as pipelines
from sdxl.pipelines.find import find

ROOT = Path(__file__).resolve().parent.parent.parent
CARD = (ROOT / "assets" / "embedded" / "README.md").read_text()
TEXT = ["--task", "text2img", "--prompt", "a red ball on the left", "--ddim_steps", "2", "--seed", "3"]


def settings(weight_path: Path, **said: Any) -> Settings:
    return Settings(task="text2img", prompt="a ball", output_path=Path("x.png"), weight_path=weight_path, **said)


# ---- where it is -----------------------------------------------------------------------------------------------------


def test_it_is_in_the_source_tree_or_beside_the_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert embedded_folder() == ROOT / "assets" / "embedded"
    (tmp_path / "sdxl" / "embedded").mkdir(parents=True)
    monkeypatch.setattr(sdxl.checkpoint.embedded, "__file__", str(tmp_path / "sdxl" / "checkpoint" / "embedded.py"))
    assert embedded_folder() == tmp_path / "sdxl" / "embedded"


def test_an_installation_has_all_of_its_files(stand_in: Path) -> None:
    """An installation has the files that `package-data` names, from the folder that `package-dir` maps."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "sdxl.embedded" in tool["packages"]
    assert tool["package-dir"]["sdxl.embedded"] == "assets/embedded"
    packaged = {path for pattern in tool["package-data"]["sdxl.embedded"] for path in stand_in.glob(pattern)}
    assert packaged == {path for path in stand_in.rglob("*") if path.is_file()}


def test_what_is_missing_is_said_beside_what_is_there(no_embedded: Path, stand_in: Path) -> None:
    with pytest.raises(CheckpointError, match="base.safetensors does not exist: .* there is nothing; .*the model tiny"):
        embedded_weights()
    shutil.copy(stand_in / FILES["sdxl-base"], no_embedded)
    assert embedded_weights() == no_embedded / "base.safetensors"
    with pytest.raises(CheckpointError, match="inpaint.safetensors does not exist: .* there is base.safetensors;"):
        embedded_weights("sdxl-inpaint")
    with pytest.raises(CheckpointError, match="turbo.safetensors does not exist: .* there is base.safetensors;"):
        embedded_weights("sdxl-turbo")
    with pytest.raises(CheckpointError, match="no sd15 weights, only sdxl-base, sdxl-inpaint, sdxl-turbo"):
        embedded_weights("sd15")


def test_inpainting_has_its_own_weights_where_they_are_there(no_embedded: Path, stand_in: Path) -> None:
    shutil.copy(stand_in / FILES["sdxl-base"], no_embedded)
    assert embedded_kind("inpainting") == "sdxl-base"
    shutil.copy(stand_in / FILES["sdxl-inpaint"], no_embedded)
    found = {task: find("embedded", "sige", Path(), task=task).path.name for task in pipelines.TASKS}
    assert found == dict.fromkeys(pipelines.TASKS, "base.safetensors") | {"inpainting": "inpaint.safetensors"}


def test_examples() -> None:
    found = doctest.testmod(sdxl.checkpoint.embedded, optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
    assert found.attempted and not found.failed


# ---- when it is taken ------------------------------------------------------------------------------------------------


def test_without_weights_it_paints_at_its_own_size_and_says_so_in_a_line(
    embedded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # where there are neither configs nor weights
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's own: a user has none
    assert main([*TEXT, "--output_path", "out.png"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("wrote out.png: 256 high x 256 wide, ")
    notes = [line for line in captured.err.splitlines() if "embedded" in line]
    assert notes == [
        "note: no weights in pretrained: using the embedded demo model, trained on 256x256 drawings "
        "(docs/checkpoints.md says how to get SDXL)"
    ]
    assert Image.open("out.png").size == (256, 256)
    assert read_settings("out.png")["model"] == EMBEDDED  # so the picture repeats itself
    assert main([*TEXT, "--model", "embedded", "--output_path", "again.png"]) == 0
    assert "note:" not in capsys.readouterr().err
    assert Image.open("again.png").tobytes() == Image.open("out.png").tobytes()


def test_weights_that_are_there_come_first(project: Path, embedded: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert choose_weights(settings(Path("pretrained"))).settings.model == "sdxl"
    assert not caplog.records
    assert choose_weights(settings(Path("configs"))).settings.model == EMBEDDED
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "words", [["--run_type", "turbo"], ["--refined", "True", "--ddim_steps", "5"]], ids=["turbo", "refiner"]
)
def test_it_has_a_turbo_and_a_refiner(
    words: list[str], embedded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*TEXT[:-4], "--seed", "3", "--H", "64", "--W", "64", *words, "--output_path", "out.png"]) == 0
    assert read_settings(tmp_path / "out.png")["model"] == EMBEDDED


@pytest.mark.parametrize(
    ("words", "kind"),
    [(["--run_type", "turbo"], "sdxl-turbo"), (["--refined", "True", "--ddim_steps", "10"], "sdxl-base")],
)
def test_a_part_of_it_is_not_taken_for_another(
    words: list[str],
    kind: str,
    no_embedded: Path,
    stand_in: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copy(stand_in / FILES["sdxl-base"], no_embedded)
    monkeypatch.chdir(tmp_path)
    assert main([*TEXT, *words, "--output_path", "out.png"]) == 2
    assert re.search(f"no {kind} weights: .*--model tiny runs without any", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--weight_path", "my.safetensors"], "my.safetensors: no such file; .* --model embedded"),
        (["--model", "sdxl"], "no sdxl-base weights"),
    ],
)
def test_it_is_not_taken_for_what_it_is_not(
    words: list[str],
    message: str,
    embedded: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*TEXT, *words, "--output_path", "out.png"]) == 2
    assert re.fullmatch(f"error: .*{message}.*\n", capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_without_it_the_error_is_the_old_one(
    no_embedded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*TEXT, "--output_path", "out.png"]) == 2
    assert re.search("no sdxl-base weights: .*hf download.*--model tiny runs without any", capsys.readouterr().err)
    assert main([*TEXT, "--model", "embedded", "--output_path", "out.png"]) == 2
    assert "base.safetensors does not exist" in capsys.readouterr().err


def test_a_profile_of_it_has_its_shapes(no_embedded: Path, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--mode", "profile_unet", "--mask_path", "mask.npy", "--model", "embedded", "--macs_only"]
    assert main(words) == 0
    assert "sdxl-base (embedded)" in capsys.readouterr().out


# ---- its card --------------------------------------------------------------------------------------------------------


def test_the_card_counts_its_parameters() -> None:
    parts = build_parts(load_shapes("sdxl-base", variant=EMBEDDED).parts)
    counts = {name: sum(value.numel() for value in part.parameters()) for name, part in parts.items()}
    for count in (*counts.values(), sum(counts.values())):
        assert f"| {count:,} |" in CARD


def test_the_files_are_as_large_as_the_card_says_and_small(embed: ModuleType) -> None:
    folder = ROOT / "assets" / "embedded"
    for name in FILES.values():
        if (folder / name).is_file():
            assert f"| {(folder / name).stat().st_size:,} |" in CARD
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= embed.LIMIT


# ---- how a checkpoint becomes it -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def embed() -> ModuleType:
    spec = importlib.util.spec_from_file_location("embed", ROOT / "tools" / "embed.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def embed_into(embed: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the tool on a folder of the test's own, which may be large."""
    monkeypatch.setattr(embed, "LIMIT", 10**9)
    return lambda *words: int(embed.main([*map(str, words), "--out", str(tmp_path / "embedded")]))


def test_trained_files_become_the_embedded_ones(
    embed_into: Callable[..., int], stand_in: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = tmp_path / "trained"
    shutil.copytree(stand_in, trained)
    parts = load(trained / FILES["sdxl-base"], dtype=torch.float32, progress=False)
    save_single_file(parts, trained / "model.safetensors")
    assert embed_into(trained / "model.safetensors", "--kind", "base") == 0
    for kind in ("sdxl-inpaint", "sdxl-turbo", "sdxl-refiner"):
        assert embed_into(trained / FILES[kind]) == 0
    made = tmp_path / "embedded"
    names = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()}
    assert names == {path.relative_to(stand_in).as_posix() for path in stand_in.rglob("*") if path.is_file()}
    assert (made / FILES["sdxl-base"]).read_bytes() == (stand_in / FILES["sdxl-base"]).read_bytes()  # fp16 again
    assert load(made / FILES["sdxl-inpaint"], progress=False).variant == EMBEDDED
    assert f"{(made / 'base.safetensors').stat().st_size:,}  base.safetensors" in capsys.readouterr().out


def test_what_cannot_be_the_embedded_model_is_refused(
    embed_into: Callable[..., int],
    embed: ModuleType,
    stand_in: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base = stand_in / FILES["sdxl-base"]
    assert embed_into(tiny_weights("sdxl-base")) == 2
    assert "sdxl-base of the variant tiny, expected" in capsys.readouterr().err
    assert embed_into(base, "--kind", "inpaint") == 2
    assert "is sdxl-base, expected sdxl-inpaint" in capsys.readouterr().err
    monkeypatch.setattr(embed, "LIMIT", base.stat().st_size - 1_000_000)
    assert embed_into(base) == 2
    assert re.search(r"would have [\d,]+ bytes, of at most", capsys.readouterr().err)
    assert not list((tmp_path / "embedded").iterdir())


def test_words_may_be_written_with_other_spaces_and_settings(
    embed_into: Callable[..., int], stand_in: Path, tmp_path: Path
) -> None:
    assert embed_into(stand_in / FILES["sdxl-base"]) == 0
    other = tmp_path / "other"
    shutil.copytree(stand_in, other)
    vocab, merges = other / "tokenizer" / "vocab.json", other / "tokenizer" / "merges.txt"
    vocab.write_text(json.dumps(json.loads(vocab.read_text()), indent=1))
    merges.write_text(merges.read_text().rstrip() + "\n")
    config = other / "tokenizer" / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"padding_side": "right"}))
    before = {path: path.read_bytes() for path in (tmp_path / "embedded").glob("tokenizer*/*")}
    assert embed_into(other / FILES["sdxl-inpaint"]) == 0
    assert (tmp_path / "embedded" / FILES["sdxl-inpaint"]).is_file()
    assert before == {path: path.read_bytes() for path in before}


def test_two_files_with_other_words_do_not_go_together(
    embed_into: Callable[..., int], stand_in: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert embed_into(stand_in / FILES["sdxl-base"]) == 0
    other = tmp_path / "other"
    shutil.copytree(stand_in, other)
    merges = (other / "tokenizer" / "merges.txt").read_text().splitlines()
    (other / "tokenizer" / "merges.txt").write_text("\n".join([merges[0], *reversed(merges[1:])]))
    assert embed_into(other / FILES["sdxl-inpaint"]) == 2
    assert "merges.txt differs from" in capsys.readouterr().err
    assert not (tmp_path / "embedded" / FILES["sdxl-inpaint"]).exists()
