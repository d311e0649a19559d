"""What a pass costs: multiply-accumulates in two conventions, time, memory. `python -m sige.profiling --help`."""

from sige.profiling.latency import Candidate, Timing, interleaved, peak_bytes
from sige.profiling.macs import MacCount, ProfilingError, count_macs
from sige.profiling.measure import Passes, count_passes, measure_latency, measure_macs
from sige.profiling.models import MODELS, Subject, build, load_config
from sige.profiling.rules import COUNTED, Kind

__all__ = [
    "COUNTED",
    "MODELS",
    "Candidate",
    "Kind",
    "MacCount",
    "Passes",
    "ProfilingError",
    "Subject",
    "Timing",
    "build",
    "count_macs",
    "count_passes",
    "interleaved",
    "load_config",
    "measure_latency",
    "measure_macs",
    "peak_bytes",
]
