"""What the README shows runs as it stands, and is right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_the_example_runs_and_equals_the_dense_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    with torch.no_grad():
        exec(re.search(r"```python\n(.*?)```", README, re.DOTALL)[1], names)  # type: ignore[index]
        layer, old, new, output = (names[name] for name in ("layer", "old", "new", "output"))
        active = torch.tensor(names["region"].active(64, 128))  # type: ignore[attr-defined]
        expected = torch.where(active, layer(torch.where(active, new, old)), layer(old))  # type: ignore[operator]
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    assert (tmp_path / "region.png").stat().st_size > 0


def test_links_and_targets_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"make ([a-z-]+)", README)) <= set(targets)
