"""The adapters: they walk a diffusers model and build its packed counterpart.

In the engine only they know diffusers' classes; `sige.profiling.models` imports diffusers too, to build whole models
from configurations.
"""

from sige.models.caller import Caller, find_caller
from sige.models.component import Component, Part, Role
from sige.models.find import find_parts, is_pipeline

__all__ = ["Caller", "Component", "Part", "Role", "find_caller", "find_parts", "is_pipeline"]
