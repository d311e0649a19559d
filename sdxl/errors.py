"""The mistakes a user of the application can make: each message is one sentence that says what to do."""

from __future__ import annotations

from sige.errors import SigeError

__all__ = ["Cancelled", "CheckpointError", "InputError", "SdxlError", "is_out_of_memory"]


class SdxlError(SigeError):
    """Base of every error that the application raises on purpose."""


class InputError(SdxlError, ValueError):
    """An image, a mask, a number or a file that cannot be worked with.

    Where the mistake is in one field of a request or a setting, `field` is its name, and the message begins with it:
    the command line puts its flag there.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class CheckpointError(SdxlError):
    """A checkpoint that is damaged, incomplete, or of a layout that the loader does not know."""


class Cancelled(SdxlError):  # noqa: N818
    """An edit that its `on_step` has ended."""


def is_out_of_memory(error: Exception) -> bool:
    """Says whether the memory ran out; on the CPU torch has no type of its own for that error."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or "DefaultCPUAllocator" in str(error)
