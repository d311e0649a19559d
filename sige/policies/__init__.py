"""The policies: which of a pipeline's steps run dense, which packed, and what those read.

A policy is a configuration that makes a plan of steps (`temporal.py`, `lockstep.py`: numbers only, no torch). One
`Runner` (runner.py) executes a plan, call after call of the denoiser.
"""

from sige.policies.lockstep import Lockstep
from sige.policies.presets import PRESETS
from sige.policies.schedule import FORECASTS, SCHEDULES
from sige.policies.stored import Stored
from sige.policies.temporal import Temporal

__all__ = ["FORECASTS", "POLICIES", "PRESETS", "SCHEDULES", "Lockstep", "Policy", "Stored", "Temporal"]

Policy = Temporal | Lockstep | Stored
POLICIES: dict[str, type[Policy]] = {"temporal": Temporal, "lockstep": Lockstep}
