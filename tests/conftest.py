"""Settings that every test shares."""

import gc
import logging
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

# Hypothesis makes the same examples on every machine, so a failure can be reproduced.
settings.register_profile("ci", derandomize=True, deadline=None, database=None)
settings.load_profile("ci")


LONGEST = ("test_policies", "test_editing", "test_train", "test_tasks", "test_profiling", "test_variants", "test_load")
SLOW_ON_OPS = ("native", "shim", "opcheck", "compiles")  # `make test-fast` runs the ops on the reference
FAST_ON_MODELS = ("test_properties", "test_blend", "test_recording", "test_text_cache", "test_sharing")
OTHER_MODELS = ("sdxl-refiner", "sdxl-inpainting", "sd15", "sd21", "16_bits", "odd_sizes", "border")


def is_fast(item: pytest.Item) -> bool:
    """Says whether `make test-fast` runs a test: ops on the reference, one tiny UNet, the VAE, what needs no model."""
    folder, file = item.path.parent.name, item.path.stem
    if folder == "ops":
        return not any(word in item.name for word in SLOW_ON_OPS)
    if folder == "models":
        return file in FAST_ON_MODELS and not any(word in item.name for word in OTHER_MODELS)
    return True


def pytest_collection_finish() -> None:
    """Spares the garbage collector the imported libraries: walking them took a tenth of a run. Nothing else changes."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks fast tests, and skips those marked `gpu` on a machine that cannot run them, with the reason."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)  # stable: all else keeps its order
    for item in items:
        if is_fast(item):
            item.add_marker("fast")
    if torch.cuda.is_available():
        from sige.ops import backends

        reasons = [backend.reason for backend in backends() if backend.device == "CUDA" and not backend.native]
        reason = reasons[0] if reasons else ""
    else:
        reason = "needs a CUDA GPU"
    for item in items:
        if reason and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def levels_of_loggers() -> Iterator[None]:
    """Gives the project's loggers their levels back: a command sets them for its process, a test shares its own."""
    yield
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and name.split(".")[0] in ("sige", "sdxl"):
            logger.setLevel(logging.NOTSET)
