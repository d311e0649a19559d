"""The example pictures are what their script draws, what the examples need, and small."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL
import pytest
from PIL import Image

from sdxl.pictures.images import load_image
from sdxl.pictures.masks import check_mask, load_mask

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "assets"
PICTURES = [
    "inpainting/original/0.png",
    "img2img/original/0.png",
    "img2img/original/1.png",
    "img2img/edited/0.png",
    "img2img/edited/1.png",
]
MASK = "inpainting/masks/0.npy"
same_polygons = pytest.mark.skipif(
    tuple(map(int, PIL.__version__.split(".")[:2])) < (11, 2), reason="Pillow before 11.2 fills other edges of polygons"
)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The assets, drawn twice."""
    folders = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    command = [sys.executable, str(ROOT / "tools" / "draw_assets.py")]
    runs = [subprocess.Popen([*command, str(folder)]) for folder in folders]
    assert [run.wait(timeout=120) for run in runs] == [0, 0]
    return folders


def files_in(folder: Path) -> list[str]:
    """The files in a folder, without those of the embedded model, which has its own tests."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if not name.startswith("embedded/"))


def changed(name: str) -> npt.NDArray[np.bool_]:  # [H, W]
    before, after = (np.asarray(load_image(ASSETS / "img2img" / side / name)) for side in ("original", "edited"))
    return np.asarray((before != after).any(axis=2))


def test_drawing_again_gives_the_same_bytes(drawn: tuple[Path, Path]) -> None:
    first, second = drawn
    assert files_in(first) == files_in(second) == sorted([*PICTURES, MASK])
    for name in files_in(first):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


@same_polygons
@pytest.mark.parametrize("name", PICTURES)
def test_the_pictures_in_the_project_are_those_drawn(drawn: tuple[Path, Path], name: str) -> None:
    with Image.open(drawn[0] / name) as new, Image.open(ASSETS / name) as ours:
        assert new.mode == ours.mode == "RGB"
        # Pixels, not bytes: another machine's zlib may pack the same pixels in another way.
        assert np.array_equal(np.asarray(new), np.asarray(ours)), "run python tools/draw_assets.py"


def test_the_project_has_these_files_and_they_are_small() -> None:
    assert files_in(ASSETS) == sorted([*PICTURES, MASK])
    sizes = {name: (ASSETS / name).stat().st_size for name in files_in(ASSETS)}
    assert max(sizes[name] for name in PICTURES) < 400_000
    assert sum(sizes.values()) < 1_500_000


def test_the_inpainting_mask_is_the_published_rectangle() -> None:
    mask = load_mask(ASSETS / MASK)
    check_mask(mask, (512, 1024))
    rows, columns = np.nonzero(mask)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (280, 469, 590, 909)
    assert (mask[280:470, 590:910] == 1).all()
    assert np.load(ASSETS / MASK).dtype == bool
    assert f"{mask.mean():.1%}" == "11.6%"


@pytest.mark.parametrize("name", PICTURES)
def test_the_pictures_are_1024_wide_and_show_something(name: str) -> None:
    image = load_image(ASSETS / name)
    assert image.size == (1024, 512)
    assert len(image.getcolors(2**24) or []) > 2000


@pytest.mark.parametrize(("name", "share"), [("0.png", 0.017), ("1.png", 0.028)])
def test_the_edits_are_small_and_local(name: str, share: float) -> None:
    difference = changed(name)
    assert difference.mean() == pytest.approx(share, abs=0.001)
    rows, columns = np.nonzero(difference)
    assert (np.ptp(rows) + 1) * (np.ptp(columns) + 1) < 0.07 * difference.size
