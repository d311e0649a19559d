"""Requests: the tasks, the pictures and regions that are made once, and errors that name their field."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sdxl.commands.rules
import sdxl.edits.request
import sdxl.edits.sampling
import sige
from sdxl.commands.rules import in_flags
from sdxl.edits.request import Request
from sdxl.errors import CheckpointError, InputError
from sige import Lockstep, Temporal
from tests.sdxl.edits import SIDE, drawn, picture, rectangle, sampling

ROOT = Path(__file__).resolve().parent.parent.parent
INPAINTING: dict[str, Any] = {"image": picture(), "mask": rectangle()}
SDEDIT: dict[str, Any] = {"image": picture(), "edited": drawn()}
PAINTED: dict[str, Any] = {"edited": drawn(), "mask": None}
COLOURED = Image.new("RGB", (SIDE, SIDE), (255, 0, 0))


@pytest.mark.parametrize(
    ("field", "message", "given", "said"),
    [
        ("mask", "got 64 high x 72 wide, expected the size of the image, 64 high", {"mask": rectangle(72)}, {}),
        ("mask", "has shape", {"mask": np.zeros((2, SIDE, SIDE))}, {}),
        ("mask", "holds .* values from", {"mask": rectangle() * 7.0}, {}),
        ("mask", "is a coloured picture", {"mask": COLOURED}, {}),
        ("mask", "given beside an edited picture", {**SDEDIT, "mask": rectangle()}, {}),
        ("image", "is missing: the mask", {"image": None, "mask": rectangle()}, {}),
        (
            "image",
            "is missing: a sparse SDEdit",
            {"image": None, "policy": Temporal(), **PAINTED},
            {},
        ),
        ("edited", "got .* 72 wide, expected the original's size", {"edited": drawn(72), "mask": None}, {}),
        ("edited", "and image are the same", {"edited": picture(), "mask": None, "policy": Temporal()}, {}),
        ("size", "got 100x64, expected multiples of 8", {"size": (100, SIDE), "image": None, "mask": None}, {}),
        ("size", "got 0x64, expected multiples of 8", {"size": (0, SIDE), "image": None, "mask": None}, {}),
        ("size", "got .* beside a picture", {"size": (SIDE, SIDE)}, {}),
        ("policy", "got Temporal for img2img", {"mask": None, "policy": Temporal()}, {}),
        ("policy", "got Lockstep for text2img", {"image": None, "mask": None, "policy": Lockstep()}, {}),
        ("strength", "0.1 of 5 steps leaves none", {}, {"strength": 0.1}),
        ("strength", "got 1.5, expected a number from 0 to 1", {}, {"strength": 1.5}),
        ("steps", "got 0, expected at least 1", {}, {"steps": 0}),
        ("steps", "got 3, expected 4 or more: the refiner takes 30% of them", {"refined": True}, {"steps": 3}),
        ("denoising_split", "got 0.5, but there is no refiner", {}, {"denoising_split": 0.5}),
        ("denoising_split", "0.95 of 5 steps .* leaves none", {"refined": True}, {"denoising_split": 0.95}),
    ],
)
def test_a_mistake_names_its_field(field: str, message: str, given: dict[str, Any], said: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=rf"^{field}:? {message}") as caught:
        Request(sampling(**said), **{**INPAINTING, **given})
    assert caught.value.field == field


def test_a_policy_with_latents_is_refused() -> None:
    import torch

    with pytest.raises(InputError, match="^policy: got latents") as caught:
        Request(sampling(), **INPAINTING, policy=Lockstep(original=torch.zeros(1, 4, 8, 8)))
    assert caught.value.field == "policy"


@pytest.mark.parametrize(("given", "strength"), [({"half_steps": (3,)}, None), ({"skipped_steps": (1,)}, 0.5)])
def test_steps_by_hand_that_do_not_fit_are_refused_at_once(given: dict[str, Any], strength: float | None) -> None:
    said = sampling(steps=9, strength=strength)
    with pytest.raises(InputError, match=rf"^{next(iter(given))}: got .* of {4 if strength else 9} steps 0, 1"):
        Request(said, **INPAINTING, policy=Temporal(**given))


def test_a_seed_may_be_an_integer_of_numpy_and_nothing_else() -> None:
    assert type(sampling(seed=np.int64(7)).seed) is int
    for seed in (1.5, "7", None):
        with pytest.raises(InputError, match="^seed: got .*, expected a whole number"):
            sampling(seed=seed)


def test_the_command_line_puts_the_flag_in_the_place_of_the_field() -> None:
    with pytest.raises(InputError) as caught:
        Request(sampling(steps=1, strength=0.5), **INPAINTING)
    assert in_flags(caught.value).startswith("--strength 0.5 of 1 steps")
    assert in_flags(InputError("mask: got", "mask")) == "--mask_path: got"
    assert in_flags(InputError("mask: got")) == "mask: got"
    assert in_flags(CheckpointError("mask: got")) == "mask: got"


def test_no_part_below_the_command_line_speaks_of_flags() -> None:
    """Commands to paste are exceptions: those of hf, and run.py's at the end of a training.

    The server and the batch have command lines of their own.
    """
    own = {ROOT / "sdxl" / "serve" / name for name in ("main.py", "build.py", "ray_app.py")}
    for path in sorted((ROOT / "sdxl").rglob("*.py")):
        if {"commands", "batch"} & set(path.parts) or path.name == "results.py" or path in own:
            continue
        for line in path.read_text().splitlines():
            words = [word for word in line.replace('"', " ").split() if word.startswith("--") and word[2:3].isalpha()]
            assert not words or "hf download" in line or "--local-dir" in line, f"{path}: {line}"


# ---- what it asks for ------------------------------------------------------------------------------------------------


def test_what_is_given_decides_the_task() -> None:
    assert Request(sampling(), **INPAINTING).task == "inpainting"
    assert Request(sampling(), **SDEDIT).task == Request(sampling(), edited=drawn()).task == "sdedit"
    assert Request(sampling(), image=picture()).task == "img2img"
    assert Request(sampling()).task == Request(sampling(), size=(SIDE, SIDE)).task == "text2img"


def test_an_empty_mask_and_a_full_one_are_known() -> None:
    empty, full = (np.full((SIDE, SIDE), value) for value in (0.0, 1.0))
    assert Request(sampling(), image=picture(), mask=empty).is_empty
    assert Request(sampling(), image=picture(), mask=full, policy=Temporal()).sparse_policy is None
    request = Request(sampling(), **INPAINTING, policy=Temporal())
    assert not request.is_empty and request.sparse_policy == Temporal()


def test_region_and_padded_pictures_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    inner = sige.Region.from_mask.__func__  # type: ignore[attr-defined]
    spy = classmethod(lambda cls, *args, **kwargs: made.append("") or inner(cls, *args, **kwargs))
    monkeypatch.setattr(sige.Region, "from_mask", spy)
    request = Request(sampling(), image=picture(61, 53), mask=rectangle(61, 53), policy=Lockstep(dilation=2))
    assert made == []
    assert request.region is request.region and len(made) == 1
    assert request.start is request.start is request.original
    assert request.start is not None and request.start.size == (64, 56)
    assert (request.picture_size, request.padded_size) == ((53, 61), (56, 64))
    assert request.region.image_size == (56, 64)


def test_a_region_is_dilated_as_the_policy_says() -> None:
    cells = Request(sampling(), **INPAINTING, policy=Temporal()).region.active(8, 8)
    assert np.array_equal(cells, rectangle().reshape(8, 8, 8, 8).any(axis=(1, 3)))
    wider = Request(sampling(), **INPAINTING, policy=Lockstep()).region.active(8, 8)
    assert wider.sum() > cells.sum() and (wider | ~cells).all()
    assert Request(sampling(), **SDEDIT).region.ratio(8, 8) == 1
    assert Request(sampling(), **SDEDIT, policy=Temporal()).region.ratio(8, 8) < 0.25


def test_a_request_needs_no_torch() -> None:
    code = (
        "import sys, numpy as np\nfrom PIL import Image\n"
        "from sdxl.edits.request import Request\nfrom sdxl.edits.sampling import Sampling\nfrom sige import Temporal\n"
        "mask = np.zeros((64, 64)); mask[8:16, 8:16] = 1\n"
        "Request(Sampling('x'), image=Image.new('RGB', (64, 64)), mask=mask, policy=Temporal()).region.active(8, 8)\n"
        "print([name for name in ('torch', 'diffusers') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_examples() -> None:
    for module in (sdxl.edits.request, sdxl.edits.sampling, sdxl.commands.rules):
        found = doctest.testmod(module, optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
        assert found.attempted and not found.failed
