"""A folder laid out like the project's, with tiny checkpoints under the real file names, and small pictures."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent.parent
SIZE = (64, 96)  # of the small pictures
VAE_CHANNELS = [4, 4, 8, 8]
KINDS = ("sdxl-base", "sdxl-refiner", "sdxl-turbo", "sdxl-inpaint", "sd15")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Sets one thread: small layers gain nothing from more, and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def project_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder, written once; tests only read it."""
    from sdxl.checkpoint.configs import load_shapes
    from sdxl.checkpoint.tiny import write_tiny

    folder = tmp_path_factory.mktemp("project")
    (folder / "assets").symlink_to(ROOT / "assets")
    shutil.copytree(ROOT / "configs", folder / "configs")
    make_smaller(folder / "configs" / "tiny.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sdxl.checkpoint.tiny.load_shapes", partial(load_shapes, config_path=folder / "configs"))
        write_tiny(folder / "pretrained", KINDS)
    draw_pictures(folder)
    return folder


def make_smaller(path: Path) -> None:
    """Leaves one head and one layer wherever there are several, so that fifty steps at full size fit in a test."""
    config = OmegaConf.load(path)
    for unet, channels in ((config.unet, [8, 16, 32]), (config["sdxl-refiner"].model, [8, 16, 32, 32])):
        unet.update(block_out_channels=channels, transformer_layers_per_block=1, attention_head_dim=1)
    config.vae.block_out_channels = VAE_CHANNELS
    OmegaConf.save(config, path)


def draw_pictures(folder: Path) -> None:
    """before.png, other.png, edited.png, which differs from the first in a corner, mask.npy, half.png."""
    random = np.random.default_rng(0)
    before = random.integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    edited = before.copy()
    edited[8:24, 16:40] = (200, 30, 30)
    mask = np.zeros(SIZE, dtype=np.float32)
    mask[16:40, 24:60] = 1
    half = np.zeros(SIZE, dtype=np.uint8)
    half[:, 48:] = 255
    Image.fromarray(before).save(folder / "before.png")
    Image.fromarray(255 - before).save(folder / "other.png")
    Image.fromarray(edited).save(folder / "edited.png")
    Image.fromarray(half).save(folder / "half.png")
    np.save(folder / "mask.npy", mask)


@pytest.fixture
def project(project_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs the test inside the folder."""
    monkeypatch.chdir(project_folder)
    return project_folder


@pytest.fixture
def pixels() -> Callable[[Path], bytes]:
    """The pixels of a picture."""

    def read(path: Path) -> bytes:
        with Image.open(path) as image:
            return image.tobytes()

    return read


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like assets/embedded, of random weights; written once, tests read it only."""
    from sdxl.checkpoint.embedded import EMBEDDED, FILES
    from sdxl.checkpoint.save import save_single_file
    from sdxl.checkpoint.tiny import make_tiny
    from sdxl.checkpoint.tokenizers import PADDING
    from sdxl.scenes.numbered import scene_at
    from sdxl.scenes.scene import caption
    from sdxl.training.words import train_tokenizer

    folder = tmp_path_factory.mktemp("embedded")
    captions = [caption(scene_at(number), np.random.default_rng(number)) for number in range(800)]
    for name, padding in PADDING.items():
        train_tokenizer(captions, folder / name, padding)
    for kind, file in FILES.items():
        save_single_file(make_tiny(kind, variant=EMBEDDED), folder / file, torch.float16)
    return folder


@pytest.fixture
def embedded(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts the stand-in in the place of the embedded model."""
    monkeypatch.setattr("sdxl.checkpoint.embedded.embedded_folder", lambda: stand_in)
    return stand_in


@pytest.fixture
def no_embedded(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in the place of the embedded model."""
    folder = tmp_path_factory.mktemp("nothing")
    monkeypatch.setattr("sdxl.checkpoint.embedded.embedded_folder", lambda: folder)
    return folder
