"""Sessions over HTTP: one picture, edit after edit, each staged until it is accepted.

POST   /v1/sessions                  image ─▶ {id, current, entries, …}
GET    /v1/sessions/ID, …/history    what it holds
POST   …/edits                       mask or painted, prompt, … ─▶ staged results, or a stream of events
POST   …/commit, discard             result ─▶ what it holds now
POST   …/undo, redo, cancel
GET    …/pictures/NAME               a PNG, of the history or staged
DELETE /v1/sessions/ID
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter
from PIL import Image
from pydantic import BaseModel
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse

from sdxl.edits.asked import Asked, text_flag
from sdxl.errors import InputError
from sdxl.pictures.images import check_same_size, to_rgb
from sdxl.pictures.masks import Mask, is_empty
from sdxl.serve.adapters.bodies import read_json
from sdxl.serve.adapters.forms import Form, read_form
from sdxl.serve.adapters.levels import levels_of
from sdxl.serve.adapters.openai import NO_STORE, figures, sent_event
from sdxl.serve.errors import ApiError, api_error
from sdxl.serve.server import Server
from sdxl.serve.sessions.history import History
from sdxl.serve.uploads import encoded, mask_of, picture_of
from sdxl.serve.work.jobs import ALL, Ended, Failed, Job, Made, Partial, Queued, Started, Stepped

__all__ = ["make_router"]

FIELDS = ("prompt", "n", "stream", "seed", "steps", "guidance_scale", "strength", "negative_prompt", "dense_steps",
          "dense", "grow", "mask_blur", "match_edge", "only_masked", "mask_polarity", "live", "previews")  # fmt: skip
SUPERSEDED = "superseded"  # by a newer edit of the same session


def make_router(server: Server) -> APIRouter:
    """The routes."""
    router = APIRouter(prefix="/v1/sessions")

    def found(http: HttpRequest, one: str) -> History:
        return server.desk.find(one, http.state.key)

    @router.post("")
    async def begin(http: HttpRequest) -> Response:
        form = await read_form(http, (), ("image",))
        content = form.file("image")
        if content is None:
            raise InputError("image: is missing, expected a picture as a file", "image")
        picture = await server.aside(lambda: encoded(to_rgb(picture_of(content))))
        return JSONResponse(server.desk.begin(picture, http.state.key).facts(), 201)

    @router.get("/{one}")
    async def show(http: HttpRequest, one: str) -> dict[str, Any]:
        return found(http, one).facts()

    @router.get("/{one}/history")
    async def history(http: HttpRequest, one: str) -> dict[str, Any]:
        return found(http, one).facts()

    @router.get("/{one}/pictures/{name}")
    async def picture(http: HttpRequest, one: str, name: str) -> Response:
        history = found(http, one)
        content = history.picture(None if name == "current" else name)
        kept = "no-store" if name == "current" else "private, max-age=3600"  # a name is always the same picture
        return Response(content, media_type="image/png", headers={"Cache-Control": kept})

    @router.post("/{one}/edits")
    async def edits(http: HttpRequest, one: str) -> Response:
        history = found(http, one)
        form = await read_form(http, FIELDS, ("mask", "painted"))
        edit = await server.aside(_SessionEdit, server, history, form)
        job = edit.submit(http.state.key)
        if edit.streams:
            return StreamingResponse(edit.stream(job, http), media_type="text/event-stream", headers=NO_STORE)
        made = await server.pictures(job, http.is_disconnected)
        return JSONResponse({"results": [_result(each, with_picture=True, history=history) for each in made]})

    @router.post("/{one}/commit")
    async def commit(http: HttpRequest, one: str) -> dict[str, Any]:
        history = found(http, one)
        history.commit(await _named(http))
        return history.facts()

    @router.post("/{one}/discard")
    async def discard(http: HttpRequest, one: str) -> dict[str, Any]:
        history = found(http, one)
        history.discard(await _named(http, optional=True) or None)
        return history.facts()

    @router.post("/{one}/undo")
    async def undo(http: HttpRequest, one: str) -> dict[str, Any]:
        history = found(http, one)
        history.go(-1)
        return history.facts()

    @router.post("/{one}/redo")
    async def redo(http: HttpRequest, one: str) -> dict[str, Any]:
        history = found(http, one)
        history.go(1)
        return history.facts()

    @router.post("/{one}/cancel")
    async def cancel(http: HttpRequest, one: str) -> dict[str, Any]:
        history = found(http, one)
        jobs = server.queue.of_session(history.id)
        for job in jobs:
            server.cancel(job)
        return {"cancelled": len(jobs)}

    @router.delete("/{one}")
    async def end(http: HttpRequest, one: str) -> dict[str, Any]:
        history = found(http, one)
        for job in server.queue.of_session(history.id):
            server.cancel(job, "the session was deleted")
        server.end_session(history)
        return {"id": history.id, "deleted": True}

    return router


class Named(BaseModel):
    """The JSON body that names a result."""

    result: str | None = None


async def _named(http: HttpRequest, optional: bool = False) -> str:
    """The result that a form or a JSON body names."""
    if http.headers.get("content-type", "").startswith("application/json"):
        name = (await read_json(http, Named)).result
    elif optional and not http.headers.get("content-type"):
        name = None
    else:
        name = (await read_form(http, ("result",), ())).texts.get("result")
    if not optional and name is None:
        raise InputError("result: is missing, expected the id of a staged result", "result")
    return name or ""


class _SessionEdit:
    """One edit of a session: what it asks for, and how it is answered."""

    def __init__(self, server: Server, history: History, form: Form) -> None:
        self.server, self.history = server, history
        self.asked = Asked.of_form(form.texts)
        self.streams = text_flag("stream", form.texts.get("stream") or "false")
        self.is_live = text_flag("live", form.texts.get("live") or "false")
        self.previews = text_flag("previews", form.texts.get("previews") or "true")
        current = to_rgb(picture_of(history.picture()))
        self.pixels = current.width * current.height
        self.mask, self.edited = self._pictures(form, current)
        self.asked.request(server.defaults, current, mask=self.mask, edited=self.edited)  # refuses what a worker would

    def _pictures(self, form: Form, current: Image.Image) -> tuple[Mask | None, Image.Image | None]:
        """The mask [H, W], or the picture that was painted over."""
        mask, painted = form.file("mask"), form.file("painted")
        if (mask is None) == (painted is None):
            got = "neither" if mask is None else "both"
            raise InputError(f"mask, painted: got {got}, expected one of the two", "mask")
        if painted is not None:
            edited = to_rgb(picture_of(painted, "painted"))
            check_same_size(current, edited, ("the session's picture", "painted"))
            return None, edited
        assert mask is not None
        values = mask_of(picture_of(mask, "mask"), form.texts.get("mask_polarity", "transparent"))
        if is_empty(values):
            raise InputError("mask: is empty, so nothing would be painted: paint the part to change", "mask")
        return values, None

    def submit(self, key: str) -> Job:
        """Puts the edit into the queue. A live one takes the place of the session's others."""
        if self.is_live:
            for job in self.server.queue.of_session(self.history.id):
                self.server.cancel(job, SUPERSEDED)
        work = self.server.session_work(self.history, self.asked, self.mask, self.edited)
        partials = ALL if self.streams and self.previews else 0
        return self.server.submit(
            Job(
                work,
                key=key,
                session=self.history.id,
                pictures=self.asked.n,
                partials=partials,
                pixels=self.pixels,
            )
        )

    async def stream(self, job: Job, http: HttpRequest) -> AsyncIterator[bytes]:
        """The answer as events: the place in the queue, steps with previews, each result, the end."""
        async for event in self.server.follow(job, http.is_disconnected):
            said = await self.server.aside(self._said, event)
            if said is not None:
                yield sent_event(*said)

    def _said(self, event: Any) -> tuple[str, dict[str, Any]] | None:
        if isinstance(event, Queued):
            return "queued", {"before": event.before}
        if isinstance(event, Started):
            return "started", {}
        if isinstance(event, Stepped):
            return "step", {"number": event.number, "steps": event.steps}
        if isinstance(event, Partial):
            return "preview", {"b64_jpeg": base64.b64encode(encoded(event.image, "jpeg")).decode()}
        if isinstance(event, Made):
            return "result", _result(event)
        if isinstance(event, Failed):
            error = api_error(event.error)
            return "error", {"message": error.message, "code": error.code, "param": error.param}
        if isinstance(event, Ended):
            return ("done", {}) if event.why is None else ("cancelled", {"why": event.why})
        return None


def _result(made: Made, with_picture: bool = False, history: History | None = None) -> dict[str, Any]:
    """What a client is told of a staged result."""
    one, name = made.about
    said = {"id": one, "picture": name, **figures(made), "levels": levels_of(made.result.region)}
    if with_picture and history is not None:
        try:
            said["b64_json"] = base64.b64encode(history.picture(name)).decode()
        except ApiError:  # a commit from elsewhere has cleared it meanwhile
            pass
    return said
