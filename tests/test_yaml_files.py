"""YAML files: references stand for other values, and neither they nor depth can make more than fits."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import pytest

from sige import yaml_files
from sige.config_files import config_folder, load_config
from sige.errors import ConfigError
from sige.yaml_files import merged, read_yaml, resolved


def test_a_reference_may_lead_to_another_and_into_mappings() -> None:
    content = {"a": {"b": [1, "${c}"]}, "c": "${d.e}", "d": {"e": 5}, "f": "${a}"}
    assert resolved(content, "x")["f"] == {"b": [1, 5]}
    assert content["f"] == "${a}", "it is a copy"


@pytest.mark.parametrize("value", ["${missing}", "${a.b.c}", "x${b}", "${b}${b}", "${oc.env:HOME}", "${${b}}", "${"])
def test_a_reference_that_leads_nowhere_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="x.yaml: .* stands for nothing"):
        resolved({"a": value, "b": 1}, "x.yaml")


@pytest.mark.parametrize(
    "content",
    [
        {"a": "${a}"},
        {"a": ["${b}"], "b": ["${a}"]},
        {f"a{n}": [f"${{a{n + 1}}}"] * 10 for n in range(9)} | {"a9": 1},
    ],
)
def test_circles_and_bombs_are_refused(content: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="make a circle, or more than 10,000 values"):
        resolved(content, "x.yaml")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: !!python/object/apply:os.getcwd []", "no YAML"),
        ("a: 1\na: 2", "no YAML"),
        ("[", "no YAML"),
        ("3", "no YAML|expected a mapping"),
        ("a: &x 1\nb: *x", r"has an alias, \*x"),
        ("[" * 90_000, "nested more than 30 deep"),
    ],
)
def test_what_is_no_configuration_is_refused(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=why):
        read_yaml(tmp_path / "x.yaml")


def test_lists_are_replaced_and_mappings_merged() -> None:
    before = {"a": {"b": [1, 2], "c": 3}, "d": 4}
    assert merged(before, {"a": {"b": [5]}, "d": {"e": 6}}) == {"a": {"b": [5], "c": 3}, "d": {"e": 6}}
    assert before == {"a": {"b": [1, 2], "c": 3}, "d": 4}


def test_the_projects_own_can_be_read() -> None:
    for path in sorted(config_folder().glob("*.yaml")):
        assert load_config(path.stem)


def test_examples() -> None:
    found = doctest.testmod(yaml_files, extraglobs={"folder": config_folder()})
    assert found.attempted and not found.failed
