"""--from_png reads back what a saved picture may carry, and lets no picture choose files to write or to load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sdxl.commands.fields import Fields
from sdxl.commands.flags import parse
from sdxl.commands.main import main
from sdxl.commands.repeat import HARMLESS, MACHINE, PATHS
from sdxl.commands.settings import UNSAVED
from sdxl.errors import InputError
from sdxl.pictures.png import save_png

SAVED = {"prompt": "a horse", "init_img": "a.png", "mask_path": "m.npy", "run_type": "sige", "seed": 7}
LOADED = {"lora": ["l.safetensors"], "weight_path": "elsewhere", "config_path": "there", "textual_inversion": ["w.pt"]}


def made(folder: Path, **settings: Any) -> str:
    save_png(Image.new("RGB", (8, 8)), folder / "made.png", SAVED | settings)
    return str(folder / "made.png")


@pytest.mark.parametrize("name", [*UNSAVED, "from_png", "trust_png", "__class__", ""])
def test_a_picture_cannot_say_where_to_write_or_what_to_do(tmp_path: Path, name: str) -> None:
    target = tmp_path / "precious.png"
    with pytest.raises(InputError, match="which no picture of this program does"):
        parse(["--from_png", made(tmp_path, **{name: str(target)}), "--trust_png"])


def test_a_picture_that_names_an_output_overwrites_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8), "red").save("a.png")
    Image.new("L", (8, 8)).save("m.png")  # an empty mask: the picture would be written without any weights
    (tmp_path / "precious.png").write_bytes(b"precious")
    picture = made(tmp_path, output_path="precious.png", mask_path="m.png")
    assert main(["--from_png", picture]) == 2
    assert "carries 'output_path'" in capsys.readouterr().err
    assert (tmp_path / "precious.png").read_bytes() == b"precious"


@pytest.mark.parametrize("name", LOADED)
def test_weights_of_a_picture_are_loaded_only_with_trust(tmp_path: Path, name: str) -> None:
    picture = made(tmp_path, **{name: LOADED[name]})
    with pytest.raises(InputError, match=f"names --{name} .*: give --{name}, or add --trust_png if you know who"):
        parse(["--from_png", picture])
    trusted = parse(["--from_png", picture, "--trust_png"])
    assert trusted.to_dict()[name] == LOADED[name]
    given = parse(["--from_png", picture, f"--{name}", "own"])
    assert given.to_dict()[name] == (["own"] if isinstance(LOADED[name], list) else "own")


def test_the_usual_folders_need_no_trust(tmp_path: Path) -> None:
    settings = parse(["--from_png", made(tmp_path, weight_path="pretrained", config_path="configs", device="cuda:3")])
    assert (settings.prompt, settings.seed, settings.device) == ("a horse", 7, "auto")
    trusted = parse(["--from_png", made(tmp_path, device="cuda:3"), "--trust_png"])
    assert trusted.device == "cuda:3"


def test_trust_without_a_picture_is_refused() -> None:
    with pytest.raises(InputError, match="--trust_png has no effect without --from_png"):
        parse(["--trust_png", "--prompt", "x"])


def test_every_setting_has_its_place() -> None:
    """A new setting must be put into one of the lists; until then no picture can carry it."""
    places = [*HARMLESS, *PATHS, *MACHINE, *UNSAVED]
    assert sorted(places) == sorted(Fields.__dataclass_fields__)


@pytest.mark.parametrize("source", [".", "/", "..", "nothing.png", "a" * 5000])
def test_what_is_no_picture_is_refused(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`.` has no name, and once gave a traceback."""
    monkeypatch.chdir(tmp_path)
    assert main(["--from_png", source]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("seed", 10**400, "--seed: got 1000"),
        ("scale", 10**400, "--scale: got inf"),
        ("init_img", "a\0b", "expected the name of a file"),
        ("init_img", "a\ud800b", "expected the name of a file"),
        ("original_size", [10**30, 8], "expected two numbers up to 1000000"),
        ("dense_steps", [], "--dense_steps: got , expected steps from 0 on"),
        ("prompt", {"a": 1}, "--prompt: got {'a': 1}, expected text"),
    ],
)
def test_values_that_no_command_writes_are_refused(tmp_path: Path, name: str, value: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(["--from_png", made(tmp_path, **{name: value})])
    assert message in str(caught.value)
