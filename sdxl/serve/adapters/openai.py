"""The images API as OpenAI's clients speak it: POST /v1/images/edits, GET /v1/models."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter
from PIL import Image
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse

from sdxl.edits.asked import Asked, text_flag, text_whole
from sdxl.edits.png_text import with_text
from sdxl.edits.request import Request
from sdxl.errors import InputError
from sdxl.pictures.images import size_of, to_rgb
from sdxl.pictures.masks import Mask
from sdxl.serve.adapters.forms import Form, read_form
from sdxl.serve.errors import ApiError, api_error
from sdxl.serve.server import Server
from sdxl.serve.sessions.work import identity
from sdxl.serve.uploads import encoded, has_alpha, mask_of, opacity_mask, picture_of, raw_rgb
from sdxl.serve.work.jobs import Ended, Failed, Job, Made, Partial

__all__ = ["figures", "make_router", "sent_event", "usage"]

FIELDS = ("prompt", "model", "n", "size", "output_format", "response_format", "stream", "partial_images",
          "seed", "steps", "guidance_scale", "strength", "negative_prompt", "dense_steps", "dense",
          "grow", "mask_blur", "match_edge", "only_masked", "mask_polarity", "session")  # fmt: skip
IGNORED = (
    "user",
    "quality",
    "input_fidelity",
    "moderation",
    "background",
    "output_compression",
)  # no effect on the edit
FORMATS = ("png", "jpeg", "webp")
MOST_PARTIALS = 3


def make_router(server: Server) -> APIRouter:
    """The routes."""
    router = APIRouter(prefix="/v1")

    @router.get("/models")
    async def models() -> dict[str, Any]:
        model = {"id": server.model, "object": "model", "created": 0, "owned_by": "sige"}
        return {"object": "list", "data": [model]}

    @router.post("/images/edits")
    async def edits(http: HttpRequest) -> Response:
        form = await read_form(http, FIELDS + IGNORED, ("image", "mask"))
        edit = await server.aside(_Edit, server, form)
        job = server.submit(edit.job(http.state.key))
        if edit.streams:
            return StreamingResponse(edit.stream(job, http), media_type="text/event-stream", headers=NO_STORE)
        made = await server.pictures(job, http.is_disconnected)
        return JSONResponse(await server.aside(edit.answer, made))

    return router


NO_STORE = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class _Edit:
    """One request of this API: what it asks for, and how it is answered."""

    def __init__(self, server: Server, form: Form) -> None:
        self.server = server
        texts = form.texts
        if not texts.get("prompt"):
            raise InputError("prompt: is missing, expected what the painted part shows", "prompt")
        _check_model(texts.get("model"), server.model)
        self.format = _one_of(texts, "output_format", FORMATS)
        _one_of(texts, "response_format", ("b64_json",))
        _one_of(texts, "background", ("auto", "opaque"))
        self.streams = text_flag("stream", texts.get("stream") or "false")
        self.partials = text_whole("partial_images", texts.get("partial_images") or "0")
        if not 0 <= self.partials <= MOST_PARTIALS:
            raise InputError(f"partial_images: got {self.partials}, expected 0 to {MOST_PARTIALS}", "partial_images")
        image, mask = pictures_of(form)
        self.size = f"{image.width}x{image.height}"
        if texts.get("size", "auto") not in ("auto", self.size):
            message = (
                f"size: got {texts['size'][:20]!r}, expected auto or the picture's own, {self.size}: edits keep it"
            )
            raise InputError(message, "size")
        self.session = _session_of(texts)
        asked = Asked.of_form(texts)
        self.request: Request = asked.request(server.defaults, image, mask=mask)
        self.n = asked.n

    def job(self, key: str) -> Job:
        """The job that makes the pictures. One in a session waits for the session's others."""
        named = None if self.session is None else identity(key, self.session)
        return Job(
            self.server.work(self.request, named),
            key=key,
            session=named,
            pictures=self.n,
            partials=self.partials if self.streams else 0,
            pixels=self.request.pixels,
        )

    def answer(self, made: list[Made]) -> dict[str, Any]:
        """What the client gets when all pictures are made."""
        data = [{"b64_json": self._base64(one)} for one in made]
        common = {"created": int(time.time()), "output_format": self.format, "size": self.size}
        return {**common, "data": data, "usage": usage(made)}

    async def stream(self, job: Job, http: HttpRequest) -> AsyncIterator[bytes]:
        """The answer as events: previews, then each picture."""
        made = []
        common = {"created_at": int(time.time()), "output_format": self.format, "size": self.size}
        async for event in self.server.follow(job, http.is_disconnected):
            if isinstance(event, Partial):
                drawn = await self.server.aside(encoded, event.image, self.format)
                said = {"b64_json": base64.b64encode(drawn).decode(), "partial_image_index": event.index, **common}
                yield sent_event("image_edit.partial_image", said)
            elif isinstance(event, Made):
                made.append(event)
                content = await self.server.aside(self._base64, event)
                yield sent_event("image_edit.completed", {"b64_json": content, "usage": usage([event]), **common})
            elif isinstance(event, Failed):
                error = api_error(event.error)
                yield sent_event("error", {"error": {"message": error.message, "type": error.type,
                                                     "param": error.param, "code": error.code}})  # fmt: skip
            elif isinstance(event, Ended) and event.why is not None:
                yield sent_event("error", {"error": {"message": event.why, "type": "server_error",
                                                     "param": None, "code": "cancelled"}})  # fmt: skip

    def _base64(self, made: Made) -> str:
        from dataclasses import replace

        one = replace(self.request, sampling=replace(self.request.sampling, seed=made.seed))
        named = self.server.model, self.server.scheduler
        text = with_text(made.result.image, one, *named) if self.format == "png" else None
        return base64.b64encode(encoded(made.result.image, self.format, text)).decode()


def pictures_of(form: Form) -> tuple[Image.Image, Mask]:
    """The picture and the mask [H, W] of a form: the mask's own, or the picture's transparency."""
    content = form.file("image")
    if content is None:
        raise InputError("image: is missing, expected a picture as a file", "image")
    image, polarity = picture_of(content), form.texts.get("mask_polarity", "transparent")
    sent = form.file("mask")
    if sent is not None:
        return to_rgb(image), mask_of(picture_of(sent, "mask"), polarity)
    if not has_alpha(image) or not (mask := opacity_mask(image)).any():
        raise InputError(
            "mask: is missing, and the picture has no transparent pixels: send a mask whose transparent pixels are to "
            "be painted",
            "mask",
        )
    if size_of(image) != mask.shape:
        raise InputError("image: its transparency has another size", "image")
    return raw_rgb(image), mask


def usage(made: list[Made]) -> dict[str, Any]:
    """What the pictures cost. Tokens are those of pictures of a language model: there are none here."""
    tokens = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0,
              "input_tokens_details": {"image_tokens": 0, "text_tokens": 0}}  # fmt: skip
    return tokens | {"edits": [figures(one) for one in made]}


def figures(made: Made) -> dict[str, Any]:
    """Seconds, passes and the share of the work of one picture."""
    result = made.result
    said: dict[str, Any] = {"seed": made.seed, "seconds": round(result.seconds, 3), "steps": sum(result.steps)}
    if "unet" not in result.passes:
        return said | {"computed": 0.0, "passes": {}}
    passes = result.passes["unet"]
    kinds = {name: getattr(passes, name) for name in ("dense", "half", "outer", "packed", "skipped")}
    return said | {"computed": round(result.computed, 4), "passes": kinds}


def sent_event(kind: str, said: dict[str, Any]) -> bytes:
    """A server-sent event, whose name is also its `type`."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **said})}\n\n".encode()


def _one_of(texts: Any, name: str, known: tuple[str, ...]) -> str:
    got = texts.get(name) or known[0]
    if got not in known:
        raise InputError(f"{name}: got {got[:40]!r}, expected one of {', '.join(known)}", name)
    return str(got)


def _session_of(texts: Any) -> str | None:
    """The session that a request names; None where it names none."""
    name = texts.get("session") or None
    if name is not None and not re.fullmatch(r"[\w.:-]{1,64}", name, re.ASCII):
        raise InputError(f"session: got {name[:40]!r}, expected 1 to 64 letters, digits and . : _ -", "session")
    return name


def _check_model(got: str | None, name: str) -> None:
    if got and got != name:
        raise ApiError(
            400, f"model: got {got[:60]!r}, expected {name}: GET /v1/models lists it", "model_not_found", "model"
        )
