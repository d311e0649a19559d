"""Settings that every test shares."""

import pytest
import torch
from hypothesis import settings

# Hypothesis makes the same examples on every machine, so a failure can be reproduced.
settings.register_profile("ci", derandomize=True, deadline=None, database=None)
settings.load_profile("ci")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips the tests marked `gpu` on a machine that cannot run them, with the reason."""
    if torch.cuda.is_available():
        from sige.ops import backends

        reasons = [backend.reason for backend in backends() if backend.device == "CUDA" and not backend.native]
        reason = reasons[0] if reasons else ""
    else:
        reason = "needs a CUDA GPU"
    for item in items:
        if reason and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=reason))
