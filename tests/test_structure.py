"""The house: imports go down the floors of docs/architecture.md, without circles; diffusers stays in its rooms."""

from __future__ import annotations

import doctest
import re
import tomllib
from pathlib import Path

import pytest

from tools import structure
from tools.structure import Imports, arrows, circles, read_imports

ROOT = Path(__file__).resolve().parent.parent
MOST_ARROWS = 42  # between the rooms of sdxl/; there were 87 when it was 28 flat files
KNOW_DIFFUSERS = (  # every other module takes pipelines and models as they are given
    "sige.models",
    "sige.profiling.models",
    "sdxl.checkpoint.models",
    "sdxl.checkpoint.save",
    "sdxl.pipelines",
    "sdxl.training",
)
NAMES_ONLY = ("sige", "sdxl", "sige.__main__")  # public names, and a command that prints what is installed


@pytest.fixture(scope="module")
def imports() -> Imports:
    return read_imports(ROOT)


def floors() -> list[set[str]]:
    """The floors from the top: each the modules and folders that a line of the page names."""
    page = (ROOT / "docs/architecture.md").read_text()
    block = page[page.index("## The floors") :].split("```")[1]
    found = [re.findall(r"\b((?:sige|sdxl)/[\w/]+?)(?:\.py|/)(?=\s|$)", line) for line in block.splitlines()]
    return [{path.replace("/", ".") for path in paths} for paths in found if paths]


def floor_of(module: str, stack: list[set[str]]) -> int:
    """The number of the module's floor, counted from the top."""
    for number, floor in enumerate(stack):
        if any(module == place or module.startswith(f"{place}.") for place in floor):
            return number
    raise AssertionError(f"{module} stands on no floor of docs/architecture.md")


def climbing(imports: Imports, stack: list[set[str]]) -> list[str]:
    """The imports that go up, or sideways to another place of the same floor."""
    wrong = []
    for module, imported in imports.items():
        for other in imported:
            if other not in imports or {module, other} & set(NAMES_ONLY):
                continue
            here, there = floor_of(module, stack), floor_of(other, stack)
            if here > there:
                wrong.append(f"{module} imports {other}, which stands above it")
    return wrong


def strangers(imports: Imports, library: str = "diffusers") -> list[str]:
    """The modules that import the library and are not in a room that may."""
    return [
        module
        for module, imported in imports.items()
        if library in imported and not any(module == room or module.startswith(f"{room}.") for room in KNOW_DIFFUSERS)
    ]


def test_no_module_imports_itself_by_way_of_others(imports: Imports) -> None:
    assert circles(imports) == []


def test_imports_go_down_the_floors(imports: Imports) -> None:
    assert len(floors()) >= 20
    assert climbing(imports, floors()) == []


def test_diffusers_is_imported_only_where_the_page_says(imports: Imports) -> None:
    assert strangers(imports) == []


def test_few_arrows_lead_from_room_to_room(imports: Imports) -> None:
    assert len(arrows(imports, "sdxl")) <= MOST_ARROWS


def test_every_package_is_installed() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent for package in structure.PACKAGES for path in (ROOT / package).rglob("__init__.py")}
    data = {"sige.configs", "sdxl.embedded"}  # folders of files, without Python
    assert set(tool["packages"]) == data | {".".join(folder.relative_to(ROOT).parts) for folder in folders}


def test_each_rule_can_be_broken(imports: Imports) -> None:
    """An import up, a circle and a stranger are added by hand, and each is found."""
    up = imports | {"sige.region": imports["sige.region"] | {"sige.handle", "diffusers"}}
    assert climbing(up, floors()) == ["sige.region imports sige.handle, which stands above it"]
    assert strangers(up) == ["sige.region"]
    assert any("sige.region" in circle and "sige.handle" in circle for circle in circles(up))
    with pytest.raises(AssertionError, match="stands on no floor"):
        floor_of("sige.somewhere", floors())


def test_examples() -> None:
    found = doctest.testmod(structure)
    assert found.attempted and not found.failed
