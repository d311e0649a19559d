"""SIGE: local image edits with diffusion models, recomputing only the region that an edit touches."""

from sige import ops
from sige.config import EditConfig
from sige.editing import Handle, enable, handle_of
from sige.errors import ConfigError, GeometryError, OpError, RecordingError, RegionError, SigeError, UnsupportedError
from sige.gather_map import GatherMap, Geometry, gather_map, row_map
from sige.recording import Recording
from sige.region import Region

__version__ = "0.1.0"

__all__ = [
    "ConfigError",
    "EditConfig",
    "GatherMap",
    "Geometry",
    "GeometryError",
    "Handle",
    "OpError",
    "Recording",
    "RecordingError",
    "Region",
    "RegionError",
    "SigeError",
    "UnsupportedError",
    "__version__",
    "enable",
    "gather_map",
    "handle_of",
    "ops",
    "row_map",
]
