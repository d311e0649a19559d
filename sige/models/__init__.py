"""The adapters: they walk a diffusers model and build its packed counterpart. The only files that import diffusers."""

from sige.models.component import Component
from sige.models.find import find_components, is_pipeline

__all__ = ["Component", "find_components", "is_pipeline"]
