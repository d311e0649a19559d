"""Servers that the tests talk to."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
import torch

from sdxl.commands.fields import Fields
from sdxl.commands.loader import loader
from sdxl.edits.asked import Defaults
from sdxl.serve.server import Server
from tests.serve.standing import KEYS, Standing, quick_server, standing


@pytest.fixture(scope="session")
def tiny_server() -> Iterator[Standing]:
    """A server that edits with the tiny model: four steps, a fifth of a second. Clients need one of `KEYS`."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    fields = partial(Fields, model="tiny", device="cpu")
    server = Server(lambda: loader(lambda task: fields(task=task)), model="tiny", defaults=Defaults(steps=4))
    server.warm()
    with standing(server, KEYS) as one:
        yield one
    torch.set_num_threads(before)


@pytest.fixture
def quick() -> Iterator[Standing]:
    """A server without keys, whose edits turn the colours and take no time."""
    with standing(quick_server()) as one:
        yield one
