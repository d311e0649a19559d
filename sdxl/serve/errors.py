"""Errors as clients see them: a status, and one sentence that says what to do. Each adapter wraps it in its own way."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from sdxl.errors import CheckpointError, InputError
from sige.errors import ConfigError, SigeError
from sige.terminal import as_line

__all__ = ["ApiError", "BusyError", "QueueFullError", "api_error", "content_of"]

LONGEST = 500  # characters of a message; it may quote what the client sent
WEB_UIS = ("/sdapi/", "/api/v1/")  # paths of A1111's and of IOPaint's API, whose clients read errors in one other form
TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    409: "conflict",
    413: "invalid_request_error",
    429: "rate_limit_error",
    503: "server_error",
}


class BusyError(SigeError):
    """The machine cannot do this now; the same request may succeed later, or on a larger machine."""


class QueueFullError(Exception):
    """There is no room for another job; `seconds` says when there may be."""

    def __init__(self, message: str, seconds: int) -> None:
        super().__init__(message)
        self.seconds = seconds


@dataclass
class ApiError(Exception):
    """A request that is not answered with what it asks for."""

    status: int
    message: str
    code: str
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def type(self) -> str:
        """The kind of the error, by its status."""
        return TYPES.get(self.status, "server_error")


def api_error(error: Exception) -> ApiError:
    """The error as a client is told; what is not ours is told without details.

    >>> api_error(InputError("steps: got 0, expected at least 1", "steps")).status
    400
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, QueueFullError):
        return ApiError(429, str(error), "queue_full", headers={"Retry-After": str(error.seconds)})
    if isinstance(error, BusyError):
        return ApiError(503, str(error), "out_of_memory", headers={"Retry-After": "5"})
    message = re.sub(r"\s+", " ", as_line(error, LONGEST)) if isinstance(error, SigeError) else ""
    if isinstance(error, CheckpointError):
        return ApiError(503, message, "model_unavailable")
    if isinstance(error, (InputError, ConfigError)):
        return ApiError(400, message, "invalid_value", getattr(error, "field", None))
    if isinstance(error, SigeError):
        return ApiError(400, message, "invalid_value")
    return ApiError(500, "the server has a fault here: its log says more", "internal_error")


def content_of(error: ApiError, path: str) -> dict[str, Any]:
    """The body of an error's answer, in the form that the clients of that path read.

    >>> content_of(ApiError(400, "steps: got 0", "invalid_value"), "/sdapi/v1/img2img")
    {'error': 'invalid_value', 'detail': 'steps: got 0', 'body': '', 'errors': 'steps: got 0'}
    """
    if path.startswith(WEB_UIS):
        return {"error": error.code, "detail": error.message, "body": "", "errors": error.message}
    said = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    return {"error": said}
