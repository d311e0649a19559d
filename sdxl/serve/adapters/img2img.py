"""The body of A1111's `img2img`, and the edit that it asks for.

What A1111 knows and this server does not is refused where it would change the picture. The rest has no effect.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, ConfigDict

from sdxl.edits.asked import MOST_PICTURES, Asked, Defaults
from sdxl.edits.request import Request
from sdxl.errors import InputError
from sdxl.pictures.images import to_rgb
from sdxl.serve.adapters.bodies import Number, Whole
from sdxl.serve.adapters.samplers import sampler_note
from sdxl.serve.uploads import decoded, drawn_mask, picture_of

__all__ = ["Img2Img", "check_checkpoint"]

ORIGINAL = 1  # of `inpainting_fill`: the part is painted from what it shows
LORA = re.compile(r"<(lora|lyco|hypernet):", re.IGNORECASE)


class Img2Img(BaseModel):
    """One request; None means that the client leaves the value to the server. Other fields have no effect."""

    model_config = ConfigDict(extra="ignore")

    init_images: list[str] | None = None
    mask: str | None = None
    prompt: str | None = ""
    negative_prompt: str | None = ""
    seed: Whole | None = -1  # -1: any
    batch_size: Whole | None = 1
    n_iter: Whole | None = 1
    steps: Whole | None = None
    cfg_scale: Number | None = None
    denoising_strength: Number | None = 0.75
    sampler_name: str | None = None
    sampler_index: str | None = None  # its older name
    scheduler: str | None = None
    mask_blur: Whole | None = None
    mask_blur_x: Whole | None = 4
    mask_blur_y: Whole | None = 4
    inpainting_fill: Whole | None = 0
    inpainting_mask_invert: Whole | None = 0
    inpaint_full_res: bool | None = True
    inpaint_full_res_padding: Whole | None = 0
    width: Whole | None = 512
    height: Whole | None = 512
    send_images: bool | None = True
    # refused where they would change the picture:
    styles: list[Any] | None = None
    script_name: str | None = None
    alwayson_scripts: dict[str, Any] | None = None
    override_settings: dict[str, Any] | None = None
    refiner_checkpoint: str | None = None
    tiling: bool | None = False
    restore_faces: bool | None = False
    subseed_strength: Number | None = 0
    seed_resize_from_w: Whole | None = 0
    seed_resize_from_h: Whole | None = 0
    initial_noise_multiplier: Number | None = 1

    @property
    def pictures(self) -> int:
        """How many pictures are asked for."""
        sizes = self.batch_size or 1, self.n_iter or 1
        if min(sizes) < 1 or sizes[0] * sizes[1] > MOST_PICTURES:
            got = f"{sizes[0]} x {sizes[1]}"
            raise InputError(f"batch_size x n_iter: got {got}, expected 1 to {MOST_PICTURES} pictures", "batch_size")
        return sizes[0] * sizes[1]

    @property
    def sampler(self) -> str | None:
        """The sampler's whole name: A1111 says the noise schedule apart since 1.9."""
        name, schedule = self.sampler_name or self.sampler_index, (self.scheduler or "").lower()
        return f"{name} Karras" if name and schedule == "karras" and not name.endswith("Karras") else name

    def request(self, defaults: Defaults) -> Request:
        """The edit: an inpainting under the mask, a plain img2img without one."""
        images = self.init_images or []
        if len(images) != 1:
            raise InputError(f"init_images: got {len(images)}, expected one picture in base64", "init_images")
        image = to_rgb(picture_of(decoded(images[0], "init_images"), "init_images"))
        if not self.mask:
            return self._asked().request(defaults, image)
        mask = drawn_mask(picture_of(decoded(self.mask, "mask"), "mask"))
        return self._asked().request(defaults, image, mask=1 - mask if self.inpainting_mask_invert else mask)

    def _asked(self) -> Asked:
        blur = max(self.mask_blur_x or 0, self.mask_blur_y or 0) if self.mask_blur is None else self.mask_blur
        return Asked(
            self.prompt or "",
            self.negative_prompt or None,
            steps=self.steps,
            guidance_scale=self.cfg_scale,
            strength=self.denoising_strength,
            seed=None if self.seed in (None, -1) else self.seed,
            mask_blur=blur,
            only_masked=(self.inpaint_full_res_padding or 0) if self.inpaint_full_res else None,
            n=self.pictures,
        )

    def check(self, model: str) -> None:
        """Refuses what would give another picture than the client expects."""
        wrong = {
            "styles": bool(self.styles),
            "script_name": bool(self.script_name),
            "refiner_checkpoint": self.refiner_checkpoint not in (None, "", "None"),
            "tiling": bool(self.tiling),
            "restore_faces": bool(self.restore_faces),
            "subseed_strength": bool(self.subseed_strength),
            "seed_resize_from_w": (self.seed_resize_from_w or 0) > 0 and (self.seed_resize_from_h or 0) > 0,
            "initial_noise_multiplier": self.initial_noise_multiplier not in (None, 1),
        }
        for name in (name for name, found in wrong.items() if found):
            raise InputError(f"{name}: this server cannot do that: leave it out", name)
        for name, script in (self.alwayson_scripts or {}).items():
            if _is_active(script):
                raise InputError(
                    f"alwayson_scripts: this server has no {name[:40]!r}: leave it out", "alwayson_scripts"
                )
        settings = self.override_settings or {}
        check_checkpoint(settings.get("sd_model_checkpoint"), model)
        if settings.get("CLIP_stop_at_last_layers") not in (None, 1):
            raise InputError(
                "CLIP_stop_at_last_layers: this server reads every layer: leave it out", "override_settings"
            )

    def notes(self, scheduler: str) -> list[str]:
        """What is accepted without effect, a sentence each."""
        said = [sampler_note(self.sampler, scheduler)]
        if self.mask and self.inpainting_fill != ORIGINAL and (self.denoising_strength or 0) < 1:
            said.append(f"inpainting_fill: {self.inpainting_fill} has no effect, the part begins from what it shows")
        if LORA.search(self.prompt or ""):
            said.append("prompt: <lora:…> is read as words, this server has the LoRAs that it was started with")
        return [note for note in said if note]


def check_checkpoint(name: Any, model: str) -> None:
    """Refuses another model than the server's."""
    if name not in (None, "", model):
        raise InputError(
            f"sd_model_checkpoint: got {str(name)[:60]!r}, this server has {model} only", "sd_model_checkpoint"
        )


def _is_active(script: Any) -> bool:
    """Says whether a script would do something: clients send the arguments of those that are off, too."""
    arguments = script.get("args") if isinstance(script, dict) else script
    if isinstance(arguments, dict):
        return _is_on(arguments)
    if isinstance(arguments, list):
        return bool(arguments) and (any(map(_is_on, arguments)) or arguments[0] is True)
    return bool(arguments)


def _is_on(unit: Any) -> bool:
    return isinstance(unit, dict) and unit.get("enabled", unit.get("enable", True)) not in (False, None)
