"""The cost of a pass: multiply-accumulates by two conventions, time, memory. See `python -m sige.profiling --help`."""

from sige.profiling.compare import PassWork, count_passes, measure_latency, measure_macs
from sige.profiling.counting import COUNTED, Kind
from sige.profiling.latency import Candidate, Timing, interleaved, peak_bytes
from sige.profiling.macs import MacCount, ProfilingError, count_macs
from sige.profiling.models import MODELS, Subject, build

__all__ = [
    "COUNTED",
    "MODELS",
    "Candidate",
    "Kind",
    "MacCount",
    "PassWork",
    "ProfilingError",
    "Subject",
    "Timing",
    "build",
    "count_macs",
    "count_passes",
    "interleaved",
    "measure_latency",
    "measure_macs",
    "peak_bytes",
]
