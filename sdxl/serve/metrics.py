"""What the server counts, in Prometheus' text format."""

from __future__ import annotations

from collections import defaultdict
from threading import Lock

from sdxl.serve.work.jobs import Ended, Failed, Job, Made

__all__ = ["Metrics"]

HELP = {
    "sige_jobs_total": ("counter", "jobs that have ended, by how"),
    "sige_pictures_total": ("counter", "pictures that were made"),
    "sige_wait_seconds_total": ("counter", "seconds that jobs have waited for a worker"),
    "sige_work_seconds_total": ("counter", "seconds that workers have worked"),
    "sige_passes_total": ("counter", "passes of the UNet, by kind"),
    "sige_computed_total": ("counter", "UNet passes that were computed, as whole dense passes"),
    "sige_steps_total": ("counter", "steps of the sampler"),
    "sige_queue_jobs": ("gauge", "jobs that wait"),
    "sige_running_jobs": ("gauge", "jobs that run"),
    "sige_sessions": ("gauge", "sessions that are open"),
    "sige_recordings_bytes": ("gauge", "bytes of all sessions' recordings"),
}
KINDS = ("dense", "packed", "half", "outer", "skipped")


class Metrics:
    """Counters that workers add to, from any thread."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], float] = defaultdict(float)
        self._lock = Lock()

    def add(self, name: str, value: float = 1, labels: str = "") -> None:
        """Adds to a counter."""
        with self._lock:
            self._values[name, labels] += value

    def count(self, job: Job) -> None:
        """Adds up a job that has ended."""
        events = job.events
        last = events[-1]
        how = "failed" if isinstance(last, Failed) else "cancelled" if isinstance(last, Ended) and last.why else "done"
        self.add("sige_jobs_total", labels=f'how="{how}"')
        if job.started_at:
            self.add("sige_wait_seconds_total", job.started_at - job.asked_at)
            self.add("sige_work_seconds_total", job.ended_at - job.started_at)
        for event in events:
            if isinstance(event, Made):
                self._count_picture(event)

    def _count_picture(self, made: Made) -> None:
        result = made.result
        self.add("sige_pictures_total")
        if "unet" not in result.passes:  # the mask was empty
            return
        self.add("sige_steps_total", sum(result.steps))
        self.add("sige_computed_total", result.computed * result.steps[0])
        for kind in KINDS:
            self.add("sige_passes_total", getattr(result.passes["unet"], kind), f'kind="{kind}"')

    def text(self, gauges: dict[str, float]) -> str:
        """All values, as Prometheus reads them."""
        with self._lock:
            values = dict(self._values)
        values |= {(name, ""): value for name, value in gauges.items()}
        lines = []
        for name, (kind, about) in HELP.items():
            lines += [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]
            found = {labels: value for (one, labels), value in values.items() if one == name} or {"": 0.0}
            lines += [
                f"{name}{{{labels}}} {value:g}" if labels else f"{name} {value:g}" for labels, value in found.items()
            ]
        return "\n".join(lines) + "\n"
