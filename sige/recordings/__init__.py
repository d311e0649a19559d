"""Recordings: what a dense pass leaves for later passes, and the weighted sums of it that they read."""

from sige.recordings.blend import Blend, BlendedComponent
from sige.recordings.mix import half_of, joined, mixed
from sige.recordings.patch import Patch
from sige.recordings.probe import Probe
from sige.recordings.recording import ComponentRecording, Recording
from sige.recordings.shelves import FolderShelf
from sige.recordings.store import Store
from sige.recordings.taps import Taps, is_tap

__all__ = [
    "Blend",
    "BlendedComponent",
    "ComponentRecording",
    "FolderShelf",
    "Patch",
    "Probe",
    "Recording",
    "Store",
    "Taps",
    "half_of",
    "is_tap",
    "joined",
    "mixed",
]
