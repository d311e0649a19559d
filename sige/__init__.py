"""SIGE: local image edits with diffusion models, recomputing only the region that an edit touches."""

from sige import ops
from sige.errors import GeometryError, OpError, RegionError, SigeError
from sige.gather_map import GatherMap, Geometry, gather_map, row_map
from sige.region import Region

__version__ = "0.1.0"

__all__ = [
    "GatherMap",
    "Geometry",
    "GeometryError",
    "OpError",
    "Region",
    "RegionError",
    "SigeError",
    "__version__",
    "gather_map",
    "ops",
    "row_map",
]
