"""Settings of the model tests."""

from collections.abc import Iterator

import diffusers
import pytest
import torch

from sige.programs import shelf
from tests.models import devices
from tests.models.emulator import Emulator


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Sets one thread: for tensors this small, waiting for a second one takes longer than it saves."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """The device of the test: the CPU, unless it is marked `every_device`."""
    name = getattr(request, "param", "cpu")
    with devices.on(name):
        yield name


@pytest.fixture(autouse=True)
def seed() -> None:
    """Seeds the random numbers, so that every test has the same inputs each time."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Hides diffusers' warnings about schedulers that were made without a checkpoint."""
    before = diffusers.utils.logging.get_verbosity()
    diffusers.utils.logging.set_verbosity_error()
    yield
    diffusers.utils.logging.set_verbosity(before)


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Emulator:
    made = Emulator()
    monkeypatch.setenv("SIGE_PROGRAMS", "1")
    monkeypatch.setattr(shelf, "captures", lambda sample: lambda: made)
    return made
