"""The properties of the packed engine once more, without a native library."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

# A UNet and a decoder hold every packed layer; others differ in geometry and dtype, which the tests of the ops cover.
CASES = "(sd15 or vae-decoder) and not dilation and not frozen and not order and not odd_sizes and not recomputes"


def test_the_engine_passes_with_the_reference_as_the_backend() -> None:
    tests = "tests/models/test_properties.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tests, "-k", CASES]
    environment = {**os.environ, "SIGE_BACKEND": "reference"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    summary = result.stdout.splitlines()[-1]
    assert result.returncode == 0, result.stdout[-5000:]
    assert int(re.search(r"(\d+) passed", summary)[1]) > 25, summary  # type: ignore[index]
