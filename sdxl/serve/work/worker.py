"""Worker: a thread that takes job after job, and lives on whatever happens to one of them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from sdxl.errors import Cancelled, is_out_of_memory
from sdxl.serve.errors import ApiError, BusyError
from sdxl.serve.work.jobs import Ended, Failed, Job, Started
from sdxl.serve.work.queue import FairQueue
from sdxl.serve.work.studio import Studio
from sige.errors import SigeError

__all__ = ["Worker", "perform"]

logger = logging.getLogger(__name__)

REST = 10.0  # seconds without a job, after which it tidies up


class Worker:
    """One thread with its studio. `seen` is told each job that has ended; `tidy` is called then, and when it rests."""

    def __init__(
        self,
        studio: Studio,
        queue: FairQueue,
        seen: Callable[[Job], None] = lambda job: None,
        tidy: Callable[[], None] = lambda: None,
        seconds: float = REST,
    ) -> None:
        self.studio, self.queue, self.seen, self.tidy, self.seconds = studio, queue, seen, tidy, seconds
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
        while (job := self.queue.take(self.studio.lane, self.seconds)) is not None or not self.queue.is_closed:
            try:
                if job is not None:
                    perform(job, self.studio)
                    self.seen(job)
                self.tidy()
            except Exception:
                logger.exception("what follows a job failed by a fault of the server")
            finally:
                if job is not None:
                    self.queue.done(job)
                del job  # else its pictures would stay until the next one


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
    except (SigeError, ApiError) as error:
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
