"""Builds a server from the flags: here, or in each replica of a cluster."""

from __future__ import annotations

import logging
import os
from argparse import Namespace
from functools import partial
from typing import TYPE_CHECKING

from sdxl.commands.model_flags import defaults_of, weight_fields
from sdxl.errors import InputError
from sige.sizes import parse_bytes

if TYPE_CHECKING:
    from sdxl.serve.server import Server

__all__ = ["keys_of", "make_server"]


def make_server(given: Namespace) -> Server:
    """The server with its weights loaded, so that wrong ones are one line and not an answer to the first client."""
    import torch

    from sdxl.commands.loader import loader, name_of, scheduler_of
    from sdxl.commands.weights import choose_weights
    from sdxl.serve.server import Limits, Server

    logging.getLogger("sdxl").setLevel(logging.INFO)
    if given.workers > 1 and given.device in ("auto", "cpu") and not torch.cuda.is_available():
        torch.set_num_threads(max(torch.get_num_threads() // given.workers, 1))
    chosen = choose_weights(weight_fields(given, "inpainting"))
    model = name_of(chosen)
    given = Namespace(**{**vars(given), "model": chosen.settings.model})  # what `auto` means is said once
    limits = Limits(
        most_bytes=parse_bytes(given.most_bytes),
        most_waiting=given.most_waiting,
        most_waiting_of_key=given.most_waiting_of_key,
        most_sessions=given.most_sessions,
        budget=parse_bytes(given.budget),
    )
    server = Server(
        lambda: loader(partial(weight_fields, given)),
        model=model,
        scheduler=scheduler_of(chosen),
        defaults=defaults_of(given, model),
        limits=limits,
        workers=given.workers,
        state=given.state,
    )
    server.warm()
    return server


def keys_of(given: Namespace) -> tuple[str, ...]:
    """The keys of which clients must send one; none: everybody may."""
    keys = [*given.api_key, *filter(None, [os.environ.get("SIGE_API_KEY")])]
    if any(not key.isascii() or not key.isprintable() or len(key) < 8 for key in keys):
        raise InputError("--api-key: got a short one, or one with other signs than ASCII: expected at least 8 signs")
    return tuple(keys)
