"""Studio: the pipelines of one device, which one thread uses."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sdxl.edits.pipes import Pipes
from sdxl.edits.request import Request
from sdxl.edits.result import Result
from sdxl.edits.run import run
from sdxl.serve.work.jobs import Job, Made

__all__ = ["Studio", "paint"]

logger = logging.getLogger(__name__)


class Studio:
    """Pipelines by the name of their task, loaded when the first request asks for them."""

    def __init__(self, load: Callable[[str], Any], lane: int = 0) -> None:
        self.lane = lane  # the number of the worker that uses it
        self._pipes = Pipes(load)

    def pipe(self, task: str) -> Any:
        """The pipeline of a task."""
        return self._pipes.of(task)

    def run(self, request: Request, job: Job) -> Result:
        """Makes one picture."""
        return run(self.pipe(request.task), request, on_step=job.on_step)


def paint(request: Request) -> Callable[[Studio, Job], None]:
    """The work of a job that paints a request with as many seeds as it has pictures."""

    def work(studio: Studio, job: Job) -> None:
        first = request.sampling.seed
        for number in range(job.pictures):
            sampling = replace(request.sampling, seed=first + number)
            result = studio.run(replace(request, sampling=sampling), job)
            job.tell(Made(number, result, sampling.seed))

    return work
