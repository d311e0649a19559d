"""Recordings: what a dense pass leaves for later passes, and the weighted sums of it that they read."""

from sige.recordings.blend import Blend, BlendedComponent
from sige.recordings.mix import half_of, joined, mixed
from sige.recordings.probe import Probe
from sige.recordings.recording import ComponentRecording, Recording

__all__ = ["Blend", "BlendedComponent", "ComponentRecording", "Probe", "Recording", "half_of", "joined", "mixed"]
