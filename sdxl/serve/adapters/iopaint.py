"""The API of IOPaint, as its page and its clients speak it.

POST /api/v1/inpaint         picture, mask and numbers in JSON ─▶ a PNG, its seed in X-Seed
GET  /api/v1/server-config   …/model, …/samplers, …/inputimage: what the page asks for when it starts
POST /api/v1/gen-info        a picture as a file ─▶ the prompts in it
socket.io                    diffusion_progress {"step"} after each step, diffusion_finish; to the sockets of the key
"""

from __future__ import annotations

from typing import Any

import socketio
from fastapi import APIRouter, FastAPI
from PIL import Image
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from sdxl.edits.asked import Asked, Defaults
from sdxl.edits.png_text import with_text
from sdxl.edits.request import Request
from sdxl.errors import InputError
from sdxl.pictures.masks import Mask
from sdxl.pictures.parameters import read_parameters
from sdxl.pictures.png import PARAMETERS
from sdxl.serve.adapters.bodies import Number, Whole, read_json
from sdxl.serve.adapters.forms import read_form
from sdxl.serve.adapters.notes import warn
from sdxl.serve.adapters.samplers import sampler_names, sampler_note
from sdxl.serve.errors import ApiError
from sdxl.serve.server import Server, Stopped
from sdxl.serve.uploads import decoded, drawn_mask, encoded, has_alpha, picture_of, raw_rgb
from sdxl.serve.work.jobs import Ended, Failed, Job, Made, Stepped
from sdxl.serve.work.studio import paint

__all__ = ["add_to"]

PROGRESS, FINISH = "diffusion_progress", "diffusion_finish"
SOCKETS = "/socket.io"
MISSING = ("enable_controlnet", "enable_brushnet", "enable_powerpaint_v2", "use_extender", "sd_lcm_lora",
           "sd_match_histograms")  # fmt: skip


class Inpaint(BaseModel):
    """The body of `inpaint`. Fields of models that this server does not have are read over."""

    model_config = ConfigDict(extra="ignore")

    image: str | None = None
    mask: str | None = None
    prompt: str = ""
    negative_prompt: str = ""
    sd_steps: Whole | None = None
    sd_guidance_scale: Number | None = None
    sd_strength: Number = 1.0
    sd_seed: Whole = 42  # -1: any
    sd_sampler: str | None = None
    sd_mask_blur: Whole = 11
    sd_keep_unmasked_area: bool = True
    use_croper: bool = False
    croper_x: Whole = 0
    croper_y: Whole = 0
    croper_height: Whole = 512
    croper_width: Whole = 512
    # refused, because they would change the picture:
    enable_controlnet: bool = False
    enable_brushnet: bool = False
    enable_powerpaint_v2: bool = False
    use_extender: bool = False
    sd_lcm_lora: bool = False
    sd_match_histograms: bool = False

    def check(self) -> None:
        """Refuses what would give another picture than the client expects."""
        for name in (name for name in MISSING if getattr(self, name)):
            raise InputError(f"{name}: this server cannot do that: turn it off", name)

    def notes(self, scheduler: str) -> list[str]:
        """What is accepted without effect, a sentence each."""
        said = [sampler_note(self.sd_sampler, scheduler)]
        if not self.sd_keep_unmasked_area:
            said.append("sd_keep_unmasked_area: this server always keeps what lies outside the mask")
        return [note for note in said if note]

    def picture(self) -> Image.Image:
        """The picture to edit, in the mode of its file."""
        if not self.image:
            raise InputError("image: is missing, expected a picture in base64", "image")
        return picture_of(decoded(self.image))

    def request(self, image: Image.Image, defaults: Defaults) -> Request:
        """The inpainting of the picture under the mask."""
        if not self.mask:
            raise InputError("mask: is missing, expected a picture in base64", "mask")
        mask = self._cut(drawn_mask(picture_of(decoded(self.mask, "mask"), "mask")))
        asked = Asked(
            self.prompt,
            self.negative_prompt or None,
            steps=self.sd_steps,
            guidance_scale=self.sd_guidance_scale,
            strength=self.sd_strength,
            seed=None if self.sd_seed == -1 else self.sd_seed,
            mask_blur=self.sd_mask_blur,
        )
        return asked.request(defaults, raw_rgb(image), mask=mask)

    def _cut(self, mask: Mask) -> Mask:  # [H, W]
        """The mask inside the box of the cropper; the whole picture stays what the model looks at."""
        if not self.use_croper:
            return mask
        if min(self.croper_x, self.croper_y) < 0 or min(self.croper_width, self.croper_height) < 1:
            raise InputError("croper_x: the box lies outside the picture, expected one inside", "croper_x")
        rows = slice(self.croper_y, self.croper_y + self.croper_height)
        columns = slice(self.croper_x, self.croper_x + self.croper_width)
        inside = mask.copy()
        inside[:] = 0
        inside[rows, columns] = mask[rows, columns]
        return inside


class ModelName(BaseModel):
    """The body that asks for another model."""

    name: str = ""


def add_to(app: FastAPI, server: Server) -> None:
    """Adds the routes, and the sockets."""
    sockets = _sockets()
    app.include_router(_make_router(server, sockets))
    app.mount(SOCKETS, socketio.ASGIApp(sockets, socketio_path=SOCKETS))


def _sockets() -> Any:
    """The socket.io server: pages listen, and say nothing. Each is in the room of its key."""
    sockets = socketio.AsyncServer(async_mode="asgi", max_http_buffer_size=10_000)

    async def connect(one: str, environ: dict[str, Any], auth: Any = None) -> None:
        await sockets.enter_room(one, _room(environ["asgi.scope"]["state"]["key"]))

    sockets.on("connect", connect)
    return sockets


def _room(key: str) -> str:
    return f"key:{key}"


def _make_router(server: Server, sockets: Any) -> APIRouter:
    router = APIRouter(prefix="/api/v1")
    model = _model_info(server.model)

    @router.post("/inpaint")
    async def inpaint(http: HttpRequest) -> Response:
        body = await read_json(http, Inpaint)
        body.check()
        for note in body.notes(server.scheduler):
            warn(note)
        image = await server.aside(body.picture)
        request = await server.aside(body.request, image, server.defaults)
        job = server.submit(Job(paint(request), key=http.state.key, pixels=request.pixels))
        made = await _followed(server, job, http, sockets)
        content = await server.aside(_png, server, image, request, made)
        return Response(content, media_type="image/png", headers={"X-Seed": str(made.seed)})

    @router.get("/server-config")
    async def server_config() -> dict[str, Any]:
        return {
            "plugins": [],
            "modelInfos": [model],
            "removeBGModel": "briaai/RMBG-1.4",
            "removeBGModels": [],
            "realesrganModel": "realesr-general-x4v3",
            "realesrganModels": [],
            "interactiveSegModel": "vit_b",
            "interactiveSegModels": [],
            "enableFileManager": False,
            "enableAutoSaving": False,
            "enableControlnet": False,
            "controlnetMethod": None,
            "disableModelSwitch": True,
            "isDesktop": False,
            "samplers": sampler_names(server.scheduler),
        }

    @router.get("/model")
    async def current_model() -> dict[str, Any]:
        return model

    @router.post("/model")
    async def switch_model(http: HttpRequest) -> dict[str, Any]:
        name = (await read_json(http, ModelName)).name
        if name != server.model:
            raise ApiError(400, f"name: got {name[:60]!r}, this server has {server.model} only", "model_not_found")
        return model

    @router.get("/samplers")
    async def samplers() -> list[str]:
        return sampler_names(server.scheduler)

    @router.get("/inputimage")
    async def input_image() -> Response:  # a status of 200, as IOPaint's own: the page looks at the type
        return JSONResponse({"detail": "this server has no picture to begin with: open one in the page"})

    @router.post("/gen-info")
    async def gen_info(http: HttpRequest) -> dict[str, str]:
        content = (await read_form(http, (), ("file",))).file("file")
        if content is None:
            raise InputError("file: is missing, expected a picture as a file", "file")
        return await server.aside(_prompts, content)

    return router


async def _followed(server: Server, job: Job, http: HttpRequest, sockets: Any) -> Made:
    """The job's picture; the page's bar moves meanwhile."""
    room, made = _room(job.key), None
    try:
        async for event in server.follow(job, http.is_disconnected):
            if isinstance(event, Stepped):
                await sockets.emit(PROGRESS, {"step": event.number - 1}, room=room)
            elif isinstance(event, Made):
                made = event
            elif isinstance(event, Failed):
                raise event.error
            elif isinstance(event, Ended) and event.why is not None:
                raise Stopped(event.why)
    finally:
        await sockets.emit(FINISH, room=room)
    assert made is not None
    return made


def _png(server: Server, image: Image.Image, request: Request, made: Made) -> bytes:
    """The picture as the client gets it: as transparent as the one that came."""
    picture = made.result.image
    text = with_text(picture, request, server.model, server.scheduler)
    if has_alpha(image):
        picture = picture.convert("RGBA")
        picture.putalpha(image.convert("RGBA").getchannel("A"))
    return encoded(picture, text=text)


def _prompts(content: bytes) -> dict[str, str]:
    text = picture_of(content, "file").info.get(PARAMETERS)
    said = read_parameters(text) if isinstance(text, str) else {}
    return {name: said.get(name, "") for name in ("prompt", "negative_prompt")}


def _model_info(name: str) -> dict[str, Any]:
    """The model as the page reads it: one that wants a prompt, and knows a strength."""
    return {
        "name": name,
        "path": name,
        "model_type": "diffusers_sdxl_inpaint",
        "is_single_file_diffusers": False,
        "need_prompt": True,
        "controlnets": [],
        "brushnets": [],
        "support_strength": True,
        "support_outpainting": False,
        "support_lcm_lora": False,
        "support_controlnet": False,
        "support_brushnet": False,
        "support_powerpaint_v2": False,
    }
