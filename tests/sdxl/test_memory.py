"""Freed memory stays with a command's process: the next pass touches pages that it has already."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from sdxl.commands.memory import keep_freed_memory

_PROGRAM = """
import resource
import torch
from sdxl.commands.memory import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
torch.set_num_threads(1)
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    before = faults()
    blocks = [torch.empty(12 << 20).fill_(1.0) for _ in range(4)]  # 48 MiB each: more than glibc learns to keep
    del blocks
    print(faults() - before)
"""


def faults(keep: bool) -> list[int]:
    """The pages that the system had to give, for each of five times the same blocks."""
    program = _PROGRAM.format(keep=keep)
    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    return list(map(int, output.split()))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_blocks_are_used_again_and_not_asked_for() -> None:
    pages = 4 * (48 << 20) // 4096
    assert faults(keep=False)[-1] > pages // 2
    assert faults(keep=True)[-1] < pages // 20


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()
