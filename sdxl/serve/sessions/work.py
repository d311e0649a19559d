"""The work of a job in a session: on the session's recordings where there is a mask, by SDEdit where it was painted.

A session over HTTP has a history, whose names say which picture is meant. A session that is only named with a request
has none: the picture that comes with the request is known by its pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image

from sdxl.edits.asked import Asked, Defaults
from sdxl.edits.png_text import with_text
from sdxl.edits.request import Request
from sdxl.edits.result import Result
from sdxl.pictures.masks import Mask
from sdxl.serve.sessions.history import History, digest_of
from sdxl.serve.sessions.tables import Tables
from sdxl.serve.uploads import encoded, picture_of
from sdxl.serve.work.jobs import Job, Made
from sdxl.serve.work.studio import Studio
from sige import Temporal

__all__ = ["NamedWork", "SessionWork", "identity"]


@dataclass(frozen=True, eq=False)
class SessionWork:
    """Called by a worker; every result is staged in the session's history."""

    tables: Sequence[Tables]  # by the worker's lane
    defaults: Defaults
    model: str  # its name, for the pictures' texts
    scheduler: str
    history: History
    asked: Asked
    mask: Mask | None  # [H, W]
    edited: Image.Image | None

    def __call__(self, studio: Studio, job: Job) -> None:
        """Makes the pictures."""
        name = self.history.current
        image = picture_of(self.history.picture(name))
        request = self.asked.request(self.defaults, image.convert("RGB"), mask=self.mask, edited=self.edited)
        first, tables = request.sampling.seed, self.tables[studio.lane]
        for number in range(job.pictures):
            one = replace(request, sampling=replace(request.sampling, seed=first + number))
            result = at_table(one, name, tables, self.history.id, studio, job)
            text = with_text(result.image, one, self.model, self.scheduler)
            about = self.history.stage(encoded(result.image, text=text), one.sampling.seed, of=name)
            tables.know(self.history.id, result.image, about[1])
            job.tell(Made(number, result, one.sampling.seed, about))


@dataclass(frozen=True, eq=False)
class NamedWork:
    """The work of a request that names a session, by a name of its client's choice."""

    tables: Sequence[Tables]  # by the worker's lane
    session: str
    request: Request

    def __call__(self, studio: Studio, job: Job) -> None:
        """Makes the pictures."""
        assert self.request.image is not None
        name, tables = _digest(self.request.image), self.tables[studio.lane]
        first = self.request.sampling.seed
        for number in range(job.pictures):
            one = replace(self.request, sampling=replace(self.request.sampling, seed=first + number))
            result = at_table(one, name, tables, self.session, studio, job)
            tables.know(self.session, result.image, _digest(result.image))
            job.tell(Made(number, result, one.sampling.seed))


def identity(key: str, session: str) -> str:
    """The identity of a session that a client names: two keys may choose the same name."""
    return f"{digest_of(key)}/{session}"


def at_table(request: Request, name: str, tables: Tables, session: str, studio: Studio, job: Job) -> Result:
    """One picture: on the session's recordings, or without them where they do not help. `name` is the picture's."""
    plain = request.mask is not None and not request.is_empty and request.only_masked is None
    if not plain or request.policy is None:
        return studio.run(request, job)
    assert request.image is not None and request.alpha is not None
    picture = request.image
    policy = None if request.policy == Temporal() else request.policy  # the session's own also knows few steps
    table = tables.of(session, studio.pipe("inpainting"), name, lambda: picture, policy)
    return table.edit(request.alpha, request.sampling, match_edge=request.match_edge, on_step=job.on_step)


def _digest(image: Image.Image) -> str:
    return hashlib.sha256(f"{image.size}".encode() + image.convert("RGB").tobytes()).hexdigest()
