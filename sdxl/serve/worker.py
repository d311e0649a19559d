"""Worker: a thread that takes job after job, and lives on whatever happens to one of them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from sdxl.errors import Cancelled, is_out_of_memory
from sdxl.serve.jobs import Ended, Failed, Job, Started
from sdxl.serve.queue import FairQueue
from sdxl.serve.studio import Studio
from sige.errors import SigeError

__all__ = ["BusyError", "Worker", "perform"]

logger = logging.getLogger(__name__)


class BusyError(SigeError):
    """The machine cannot do this now; the same request may succeed later, or on a larger machine."""


class Worker:
    """One thread with its studio. `seen` is told each job that has ended."""

    def __init__(self, studio: Studio, queue: FairQueue, seen: Callable[[Job], None] = lambda job: None) -> None:
        self.studio, self.queue, self.seen = studio, queue, seen
        self._thread = threading.Thread(target=self._live, name=f"sdxl-worker-{studio.lane}", daemon=True)

    def start(self) -> None:
        """Begins to take jobs."""
        self._thread.start()

    def join(self, timeout: float | None = None) -> None:
        """Waits until the queue is closed and the last job has ended."""
        self._thread.join(timeout)

    @property
    def is_alive(self) -> bool:
        """Says whether the thread runs."""
        return self._thread.is_alive()

    def _live(self) -> None:
        while (job := self.queue.take(self.studio.lane)) is not None:
            try:
                perform(job, self.studio)
                self.seen(job)
            except Exception:
                logger.exception("%s has ended, but what follows it failed by a fault of the server", job.id)
            finally:
                self.queue.done(job)


def perform(job: Job, studio: Studio) -> None:
    """Does the job's work; every error becomes the event that ends it."""
    if job.is_cancelled:
        job.tell(Ended(job.why))
        return
    job.tell(Started())
    try:
        job.work(studio, job)
    except Cancelled:
        job.tell(Ended(job.why))
    except SigeError as error:
        job.tell(Failed(error.with_traceback(None)))  # its frames would keep tensors alive
    except Exception as error:
        if is_out_of_memory(error):
            logger.warning("%s: not enough memory", job.id)
            job.tell(Failed(BusyError("not enough memory for this picture: send a smaller one, or try again later")))
        else:
            logger.exception("%s failed by a fault of the server", job.id)
            job.tell(Failed(error.with_traceback(None)))
    else:
        job.tell(Ended())
