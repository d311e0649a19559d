"""The API of A1111's web UI, as its clients speak it.

POST /sdapi/v1/img2img         pictures and numbers in JSON ─▶ pictures in base64, `info` as a text of JSON
GET  /sdapi/v1/progress        of the client's own edit; POST …/interrupt ends it
GET  /sdapi/v1/options         POST accepts everything but another model, and changes nothing
GET  /sdapi/v1/sd-models, …/samplers; POST …/png-info

A1111 does one thing at a time and says how far it is. Here many clients wait, so each key sees its own oldest edit.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from time import monotonic
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from sdxl.edits.png_text import settings_of, with_text
from sdxl.edits.request import Request
from sdxl.pictures.parameters import SAMPLERS, as_parameters, parameter_items
from sdxl.pictures.png import PARAMETERS
from sdxl.serve.adapters.bodies import read_json
from sdxl.serve.adapters.img2img import Img2Img, check_checkpoint
from sdxl.serve.adapters.notes import warn
from sdxl.serve.adapters.samplers import sampler_name, sampler_names
from sdxl.serve.server import Server, Stopped
from sdxl.serve.uploads import decoded, encoded, picture_of
from sdxl.serve.work.jobs import ALL, Ended, Failed, Job, Made, Partial, Stepped
from sdxl.serve.work.studio import paint

__all__ = ["make_router"]

NONE_HERE: dict[str, Any] = {  # what clients ask for when they start, and this server has none of
    "schedulers": [{"name": "automatic", "label": "Automatic", "aliases": None, "default_rho": -1.0}],
    "scripts": {"txt2img": [], "img2img": []},
    "embeddings": {"loaded": {}, "skipped": {}},
    **dict.fromkeys(
        ("upscalers", "latent-upscale-modes", "sd-vae", "loras", "hypernetworks", "face-restorers", "prompt-styles"), []
    ),
}


class PngInfo(BaseModel):
    """The body of `png-info`."""

    image: str = ""


class Options(BaseModel):
    """The only option that matters here."""

    sd_model_checkpoint: str | None = None


def make_router(server: Server) -> APIRouter:
    """The routes."""
    router = APIRouter(prefix="/sdapi/v1")
    flights = _Flights()

    @router.post("/img2img")
    async def img2img(http: HttpRequest) -> Response:
        body = await read_json(http, Img2Img)
        body.check(server.model)
        notes = body.notes(server.scheduler)
        for note in notes:
            warn(note)
        request = await server.aside(body.request, server.defaults)
        if (body.height, body.width) != request.picture_size:
            warn("width, height: an edit keeps its picture's own size")
        job = Job(paint(request), key=http.state.key, pictures=body.pictures, partials=ALL, pixels=request.pixels)
        with flights.flying(server.submit(job)):
            made = await _pictures(server, job, http)
        return JSONResponse(await server.aside(_answer, server, body, request, made, notes))

    @router.get("/progress")
    async def progress(http: HttpRequest, skip_current_image: bool = False) -> Response:
        job = flights.first(http.state.key)
        return JSONResponse(await server.aside(_progress, job, not skip_current_image))

    @router.post("/interrupt")
    async def interrupt(http: HttpRequest) -> dict[str, Any]:
        job = flights.first(http.state.key)
        if job is not None:
            server.cancel(job, "interrupted")
        return {}

    @router.get("/options")
    async def options() -> dict[str, Any]:
        return {"sd_model_checkpoint": server.model, "samples_format": "png", "CLIP_stop_at_last_layers": 1}

    @router.post("/options")
    async def set_options(http: HttpRequest) -> None:
        check_checkpoint((await read_json(http, Options)).sd_model_checkpoint, server.model)

    @router.get("/sd-models")
    async def models() -> list[dict[str, Any]]:
        named = {"title": server.model, "model_name": server.model, "filename": server.model}
        return [{**named, "hash": None, "sha256": None, "config": None}]

    @router.get("/samplers")
    async def samplers() -> list[dict[str, Any]]:
        ours = {theirs: name for name, theirs in SAMPLERS.items()}
        names = sampler_names(server.scheduler)
        return [{"name": name, "aliases": [ours.get(name, name)], "options": {}} for name in names]

    @router.post("/png-info")
    async def png_info(http: HttpRequest) -> Response:
        body = await read_json(http, PngInfo)
        return JSONResponse(await server.aside(_png_info, body.image))

    for name, value in NONE_HERE.items():
        router.add_api_route(f"/{name}", _always(value), methods=["GET"])
    return router


def _always(value: Any) -> Callable[[], Awaitable[Response]]:
    async def answer() -> Response:
        return JSONResponse(value)

    return answer


class _Flights:
    """The edits that are being answered, by key, the oldest first. Handlers only use it, in one thread."""

    def __init__(self) -> None:
        self._jobs: dict[str, list[Job]] = {}

    @contextmanager
    def flying(self, job: Job) -> Iterator[None]:
        """Holds the job while the block runs."""
        self._jobs.setdefault(job.key, []).append(job)
        try:
            yield
        finally:
            self._jobs[job.key].remove(job)
            if not self._jobs[job.key]:
                del self._jobs[job.key]

    def first(self, key: str) -> Job | None:
        """The client's edit that runs, or the one that waits longest."""
        jobs = [job for job in self._jobs.get(key, []) if not job.is_over]
        return min(jobs, key=lambda job: (not job.started_at, job.asked_at), default=None)


async def _pictures(server: Server, job: Job, http: HttpRequest) -> list[Made]:
    """The pictures that were made: all, or those before an interrupt, which is an error where there are none."""
    made = []
    async for event in server.follow(job, http.is_disconnected):
        if isinstance(event, Made):
            made.append(event)
        elif isinstance(event, Failed):
            raise event.error
        elif isinstance(event, Ended) and event.why is not None and not made:
            raise Stopped(event.why)
    return made


def _answer(server: Server, body: Img2Img, request: Request, made: list[Made], notes: list[str]) -> dict[str, Any]:
    """Pictures, the request's own values, and `info`, which is JSON in JSON."""
    named = server.model, server.scheduler
    requests = [replace(request, sampling=replace(request.sampling, seed=one.seed)) for one in made]
    pictures = [
        encoded(one.result.image, text=with_text(one.result.image, asked, *named))
        for one, asked in zip(made, requests, strict=True)
        if body.send_images is not False
    ]
    size = request.picture_size
    texts = [as_parameters(settings_of(asked, *named), size) for asked in requests]
    sampling, seeds = request.sampling, [one.seed for one in made]
    prompts = [sampling.prompt] * len(made), [sampling.negative_prompt or ""] * len(made)
    info = {
        "prompt": sampling.prompt,
        "all_prompts": prompts[0],
        "negative_prompt": sampling.negative_prompt or "",
        "all_negative_prompts": prompts[1],
        "seed": sampling.seed,
        "all_seeds": seeds,
        "subseed": sampling.seed,
        "all_subseeds": seeds,
        "subseed_strength": 0,
        "width": size[1],
        "height": size[0],
        "sampler_name": sampler_name(server.scheduler),
        "cfg_scale": sampling.scale,
        "steps": sampling.steps,
        "batch_size": body.batch_size or 1,
        "denoising_strength": sampling.strength,
        "sd_model_name": server.model,
        "index_of_first_image": 0,
        "infotexts": texts,
        "styles": [],
        "clip_skip": 1,
        "warnings": notes,
    }
    parameters = body.model_dump(exclude={"init_images", "mask"}) | {"init_images": None, "mask": None}
    return {
        "images": [base64.b64encode(one).decode() for one in pictures],
        "parameters": parameters,
        "info": json.dumps(info),
    }


def _progress(job: Job | None, with_image: bool) -> dict[str, Any]:
    """How far a job is; nothing where there is none."""
    state: dict[str, Any] = {"skipped": False, "interrupted": False, "stopping_generation": False, "job": "",
                             "job_count": 0, "job_timestamp": "0", "job_no": 0, "sampling_step": 0,
                             "sampling_steps": 0}  # fmt: skip
    said = {"progress": 0.0, "eta_relative": 0.0, "state": state, "current_image": None, "textinfo": None}
    if job is None:
        return said
    events = job.events[::-1]
    step = next((event for event in events if isinstance(event, Stepped)), None)
    drawn = next((event for event in events if isinstance(event, Partial)), None)
    state |= {"interrupted": job.is_cancelled, "job": job.id, "job_count": job.pictures, "job_no": job.made}
    if step is not None:
        steps = step.steps // job.pictures
        state |= {"sampling_step": step.number - job.made * steps, "sampling_steps": steps}
        said["progress"] = share = min(step.number / step.steps, 1.0)
        said["eta_relative"] = (monotonic() - job.started_at) * (1 / share - 1)
    if drawn is not None and with_image:
        said["current_image"] = base64.b64encode(encoded(drawn.image)).decode()
    return said


def _png_info(image: str) -> dict[str, Any]:
    """The text of a picture, the values in it, and its other texts."""
    texts = {name: text for name, text in picture_of(decoded(image)).info.items() if isinstance(text, str)}
    info = texts.pop(PARAMETERS, "")
    return {"info": info, "items": texts, "parameters": parameter_items(info) if info else {}}
