"""The web application: adapters on one server, behind the guard."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, PlainTextResponse, Response

from sdxl.serve.adapters import a1111, iopaint, openai, sessions
from sdxl.serve.editor_files import add_editor
from sdxl.serve.errors import ApiError, QueueFullError, api_error, content_of
from sdxl.serve.front.guard import Guard
from sdxl.serve.server import Server, Stopped
from sige.errors import SigeError

__all__ = ["make_app"]

CANCELLED = 499  # what web servers write where the client has gone away before the answer


def make_app(server: Server, *, keys: tuple[str, ...] = ()) -> Any:
    """The ASGI app. Workers start with it, and stop with it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        server.start()
        try:
            yield
        finally:
            server.stop()

    app = FastAPI(lifespan=lifespan, openapi_url=None)
    for adapter in (openai, sessions, a1111):
        app.include_router(adapter.make_router(server))
    iopaint.add_to(app, server)
    add_editor(app, server.model, server.defaults)
    _add_health(app, server)
    _add_errors(app)
    return Guard(app, keys=keys, most_bytes=server.limits.most_bytes, seconds=server.limits.body_seconds)


def _add_health(app: FastAPI, server: Server) -> None:
    @app.get("/healthz")
    async def healthz() -> Response:
        healthy = server.is_healthy
        return JSONResponse({"status": "ok" if healthy else "a worker has stopped"}, 200 if healthy else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return PlainTextResponse(server.metrics.text(server.gauges), media_type="text/plain; version=0.0.4")


def _add_errors(app: FastAPI) -> None:
    async def ours(http: HttpRequest, error: Exception) -> Response:
        return answer(http, api_error(error))

    async def stopped(http: HttpRequest, error: Exception) -> Response:
        return answer(http, ApiError(CANCELLED, f"{error}: nothing was made", "cancelled"))

    async def gone(http: HttpRequest, error: Exception) -> Response:
        return answer(http, ApiError(CANCELLED, "the connection ended within the request", "cancelled"))

    async def http_error(http: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
        return answer(http, ApiError(error.status_code, f"{http.method} {http.url.path[:80]}: {error.detail}", code))

    async def invalid(http: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "body"
        return answer(http, ApiError(400, f"{where}: {first['msg']}"[:300], "invalid_value", where))

    for kind in (SigeError, ApiError, QueueFullError):
        app.add_exception_handler(kind, ours)
    app.add_exception_handler(Stopped, stopped)
    app.add_exception_handler(ClientDisconnect, gone)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, ours)


def answer(http: HttpRequest, error: ApiError) -> Response:
    """The error as the clients of the request's path read it."""
    return JSONResponse(content_of(error, http.scope["path"]), error.status, error.headers)
