"""`--preset FILE.yaml`: settings from a file, under the flags' names."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sdxl.commands import preset_file
from sdxl.commands.flags import parse
from sdxl.commands.main import main
from sdxl.pictures.png import save_png

INPAINT = ["--prompt", "a horse", "--init_img", "a.png", "--mask_path", "m.npy", "--output_path", "b.png"]
FILE = """\
# for houses
ddim_steps: 30
scale: 4
H: 512
run_type: sige
preset: fast
negative-prompt: "grey: (dull:1.2), "
refined: true
lora: [a.safetensors:0.5, b.safetensors]
skipped_steps: [6, 8, 11]
target_size: [512, 1024]
"""


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(text: str, name: str = "house.yaml") -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def test_a_file_says_what_flags_say(write: Any) -> None:
    settings = parse([*INPAINT, "--preset", write(FILE)])
    words = ["--ddim_steps", "30", "--scale", "4", "--H", "512", "--run_type", "sige", "--preset", "fast", "--refined"]
    words += ["--negative_prompt", "grey: (dull:1.2), ", "--lora", "a.safetensors:0.5", "b.safetensors"]
    words += ["--skipped_steps", "6,8,11", "--target_size", "512x1024", "--seed", str(settings.seed)]
    assert settings == parse([*INPAINT, *words])


def test_flags_win_and_later_files_win(write: Any) -> None:
    one, two = write("ddim_steps: 30\nscale: 4\nseed: 1\n", "one.yaml"), write("scale: 5\nseed: 2\n", "two.YML")
    settings = parse([*INPAINT, "--preset", one, "--seed", "3", "--preset", two])
    assert (settings.steps, settings.scale, settings.seed) == (30, 5.0, 3)


def test_a_name_is_the_policy_s_preset(write: Any) -> None:
    file = write("run_type: sige\npreset: fast\n")
    assert parse([*INPAINT, "--preset", file]).preset == "fast"
    assert parse([*INPAINT, "--preset", "quality", "--preset", file]).preset == "quality"
    assert parse([*INPAINT, "--run_type", "sige", "--preset", "plain"]).preset == "plain"


def test_a_picture_s_settings_come_before_a_file_s(write: Any, tmp_path: Path) -> None:
    picture = tmp_path / "made.png"
    save_png(Image.new("RGB", (8, 8)), picture, parse([*INPAINT, "--seed", "7", "--scale", "3"]).to_dict())
    settings = parse(["--from_png", str(picture), "--preset", write("scale: 4\n")])
    assert (settings.seed, settings.scale) == (7, 4.0)
    assert "preset" not in settings.to_dict()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ddim_step: 30\n", "house.yaml: ddim_step: no such setting; did you mean ddim_steps?"),
        ("xyzzy: 1\n", "house.yaml: xyzzy: no such setting; see run.py --help"),
        ("help: true\n", "house.yaml: help: no such setting"),
        ("from_png: a.png\n", "house.yaml: from_png: no such setting"),
        ("preset: other.yaml\n", "house.yaml: preset: got other.yaml, expected a preset's name"),
        ("ddim_steps: many\n", "house.yaml: --ddim_steps: got 'many', expected a whole number"),
        ("ddim_steps: {a: 1}\n", "house.yaml: ddim_steps: got a dict, expected text, a number"),
        ("lora: [[a]]\n", "house.yaml: lora: got a list, expected text"),
        ("ddim_steps:\n", "house.yaml: expected YAML with one flag's name and value"),
        ("- 1\n- 2\n", "house.yaml holds a list, expected a mapping; expected YAML with one flag's name"),
        ("a: [\n", "house.yaml is no YAML that can be read"),
        ("\0", "house.yaml is no YAML that can be read"),
        ("scale: 5000\n", "--scale: got 5000.0, expected a number from 0 to 1000"),
        ("#" * 100_001, "house.yaml: is larger than 100,000 bytes"),
    ],
)
def test_mistakes_are_one_line(text: str, message: str, write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*INPAINT, "--preset", write(text)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*INPAINT, "--preset", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml: cannot be read (No such file or directory)" in capsys.readouterr().err
    (tmp_path / "latin.yaml").write_bytes("prompt: M\xe4hre\n".encode("latin-1"))
    assert main([*INPAINT, "--preset", str(tmp_path / "latin.yaml")]) == 2
    assert "latin.yaml is no YAML that can be read" in capsys.readouterr().err


def test_examples() -> None:
    found = doctest.testmod(preset_file)
    assert found.attempted and not found.failed
