"""Runs the examples of the README and of the docs as they are written there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent


def run_example(page: str, about: str, changes: tuple[tuple[str, str], ...] = ()) -> dict[str, Any]:
    """The names that a page's first Python block with the text `about` leaves; `changes` replace texts in it."""
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    code = next(block for block in blocks if about in block)
    for before, after in changes:
        assert before in code
        code = code.replace(before, after)
    with torch.no_grad():
        exec(code, names)
    return names
