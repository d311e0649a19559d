"""What the README shows runs as it stands, and is right."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_the_example_runs_and_changes_the_region_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    with torch.no_grad():
        exec(re.search(r"```python\n(.*?)```", README, re.DOTALL)[1], names)  # type: ignore[index]
        dense = names["unet"](names["x_edited"], 500, names["text"]).sample
    before, after = names["before"], names["after"]
    active = torch.tensor(names["region"].active(64, 128))
    assert torch.equal(after[..., ~active], before[..., ~active])
    assert (after - dense)[..., active].norm() < (before - dense)[..., active].norm() / 2  # random weights, one ring
    assert (tmp_path / "region.png").stat().st_size > 0


def test_links_and_targets_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"make ([a-z-]+)", README)) <= set(targets)
