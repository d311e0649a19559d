"""Settings that every test shares."""

import pytest
import torch
from hypothesis import settings

# The same examples on every machine and run: a failure seen once is seen again.
settings.register_profile("ci", derandomize=True, deadline=None, database=None)
settings.load_profile("ci")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` say why they are skipped."""
    if torch.cuda.is_available():
        from sige.ops import backends

        reasons = [backend.reason for backend in backends() if backend.device == "CUDA" and not backend.native]
        reason = reasons[0] if reasons else ""
    else:
        reason = "needs a CUDA GPU"
    for item in items:
        if reason and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=reason))
