"""The mistakes a user of the application can make: each message is one sentence that says what to do."""

from sige.errors import SigeError

__all__ = ["CheckpointError", "InputError", "SdxlError"]


class SdxlError(SigeError):
    """Base of every error that the application raises on purpose."""


class InputError(SdxlError, ValueError):
    """An image, a mask, a flag or a file that cannot be worked with."""


class CheckpointError(SdxlError):
    """A checkpoint that is damaged, incomplete, or of a layout that the loader does not know."""
