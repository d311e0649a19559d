"""The work of a job in a session: on the session's recordings where there is a mask, by SDEdit where it was painted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image

from sdxl.edits.asked import Asked, Defaults
from sdxl.edits.png_text import with_text
from sdxl.edits.request import Request
from sdxl.edits.result import Result
from sdxl.pictures.masks import Mask
from sdxl.serve.history import History
from sdxl.serve.jobs import Job, Made
from sdxl.serve.studio import Studio
from sdxl.serve.tables import Tables
from sdxl.serve.uploads import encoded, picture_of
from sige import Temporal

__all__ = ["SessionWork"]


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
            result = self._made(one, name, studio, job)
            text = with_text(result.image, one, self.model, self.scheduler)
            about = self.history.stage(encoded(result.image, text=text), one.sampling.seed, of=name)
            tables.know(self.history.id, result.image, about[1])
            job.tell(Made(number, result, one.sampling.seed, about))

    def _made(self, request: Request, name: str, studio: Studio, job: Job) -> Result:
        plain = request.mask is not None and not request.is_empty and request.only_masked is None
        if not plain or self.asked.dense:
            return studio.run(request, job)
        assert request.image is not None and request.alpha is not None
        picture = request.image
        policy = None if request.policy == Temporal() else request.policy  # the session's own also knows few steps
        table = self.tables[studio.lane].of(self.history.id, studio.pipe("inpainting"), name, lambda: picture, policy)
        return table.edit(request.alpha, request.sampling, on_step=job.on_step)
