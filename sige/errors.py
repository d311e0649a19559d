"""The errors a user of the engine can meet: each message names what, got, expected and what to do."""

__all__ = [
    "ConfigError",
    "DamagedError",
    "GeometryError",
    "OpError",
    "OutputError",
    "RecordingError",
    "RegionError",
    "SigeError",
    "UnsupportedError",
]


class SigeError(Exception):
    """Base of every error that the engine raises on purpose."""


class ConfigError(SigeError, ValueError):
    """A setting that does not exist, or does not fit what is enabled."""


class OutputError(SigeError, ValueError):
    """A file that cannot be written where the user wants it."""


class RegionError(SigeError, ValueError):
    """A mask, an image pair or a level size that no region can be made from."""


class GeometryError(SigeError, ValueError):
    """A layer geometry that does not exist, or does not fit its input."""


class OpError(SigeError, RuntimeError):
    """An op called with arguments that it cannot take (the native ops say the same as a plain RuntimeError)."""


class UnsupportedError(SigeError, NotImplementedError):
    """A module or an argument of a model that cannot run packed; named, with what to do."""


class RecordingError(SigeError, RuntimeError):
    """An edit without a recording that fits it."""


class DamagedError(RecordingError):
    """A file of recordings that holds something else than what was written."""
