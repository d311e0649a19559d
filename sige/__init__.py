"""SIGE: local image edits with diffusion models, recomputing only the region that an edit touches."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for readers and type checkers; at run time `__getattr__` imports what is asked for
    from sige import ops, tome
    from sige.errors import (
        ConfigError,
        GeometryError,
        OpError,
        OutputError,
        RecordingError,
        RegionError,
        SigeError,
        UnsupportedError,
    )
    from sige.geometry import GatherMap, Geometry, gather_map, row_map
    from sige.handle import Handle, enable, handle_of
    from sige.policies import Lockstep, Policy, Stored, Temporal
    from sige.recordings import Recording, Store
    from sige.region import Region

__version__ = "0.1.0"

_HOMES = {  # loaded when first asked for: torch takes a second to import
    **dict.fromkeys(
        (
            "ConfigError",
            "GeometryError",
            "OpError",
            "OutputError",
            "RecordingError",
            "RegionError",
            "SigeError",
            "UnsupportedError",
        ),
        "sige.errors",
    ),
    **dict.fromkeys(("GatherMap", "Geometry", "gather_map", "row_map"), "sige.geometry"),
    **dict.fromkeys(("Handle", "enable", "handle_of"), "sige.handle"),
    **dict.fromkeys(("Lockstep", "Policy", "Stored", "Temporal"), "sige.policies"),
    **dict.fromkeys(("Recording", "Store"), "sige.recordings"),
    "Region": "sige.region",
}

__all__ = [  # noqa: F822
    "ConfigError",
    "GatherMap",
    "Geometry",
    "GeometryError",
    "Handle",
    "Lockstep",
    "OpError",
    "OutputError",
    "Policy",
    "Recording",
    "RecordingError",
    "Region",
    "RegionError",
    "SigeError",
    "Store",
    "Stored",
    "Temporal",
    "UnsupportedError",
    "__version__",
    "enable",
    "gather_map",
    "handle_of",
    "ops",
    "row_map",
    "tome",
]


def __getattr__(name: str) -> Any:
    if name in ("ops", "tome"):
        return importlib.import_module(f"sige.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'sige' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
