"""From settings to a written picture: files first, then weights, then the edit."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

from PIL import Image

from sdxl.checkpoint.embedded import EMBEDDED, embedded_kind, embedded_weights
from sdxl.commands.inputs import Inputs, load_inputs
from sdxl.commands.rules import POLICY
from sdxl.commands.settings import Settings, Size
from sdxl.errors import CheckpointError, InputError, SdxlError
from sdxl.pictures.images import size_of, size_text
from sdxl.pictures.masks import is_empty
from sdxl.pictures.png import check_png_output, save_png
from sige.dtypes import named_dtype

if TYPE_CHECKING:
    from sdxl.edits.edit import Sampling
    from sige import EditConfig, Region
    from sige.policies import Passes

__all__ = ["choose_model", "edit_config", "place", "run"]

logger = logging.getLogger(__name__)

Value = TypeVar("Value")

TURBO_SIDE = 512  # pixels: what turbo was distilled at


def run(settings: Settings) -> str:
    """Writes the picture, and returns a line that says what was written and how long it took.

    Whatever can be refused without weights is refused before they are read.
    """
    output = _given(settings.output_path)
    check_png_output(output)
    _check_extras(settings)
    inputs = load_inputs(settings)
    if inputs.mask is not None and is_empty(inputs.mask):
        save_png(_given(inputs.image), output, settings.to_dict())
        return f"wrote {output}: the mask is empty, so this is the picture as it was"
    return _Job(place(choose_model(settings)), inputs).run(output)


def _given(value: Value | None) -> Value:
    """What a task cannot do without: Settings has seen to it."""
    assert value is not None
    return value


class _Job:
    """One picture on its way from weights to file."""

    def __init__(self, settings: Settings, inputs: Inputs) -> None:
        self.settings = settings
        self.inputs = inputs
        self.config = edit_config(settings) if settings.sparse else None
        self.region = self._find_region()

    def _find_region(self) -> Region | None:
        if self.config is None:
            return None
        region = _given(self.inputs.region(self.config.dilates_by))
        if not region.ratio(*region.image_size):
            raise InputError("--edited_img is the same picture as --init_img: there is nothing to recompute")
        return region

    def run(self, output: Path) -> str:
        began = perf_counter()
        pipe = self._load()
        refiner = self._load(refiner=True) if self.settings.refined else None
        loaded = perf_counter()
        image, passes = self._generate(pipe, refiner)
        done = perf_counter()
        save_png(image, output, self.settings.to_dict())
        summary = self._summary(image, [_steps(part) for part in (pipe, refiner) if part], done - loaded, passes)
        return f"wrote {output}: {summary}; loaded in {loaded - began:.1f} s"

    def _load(self, refiner: bool = False) -> Any:
        from sdxl.pipelines.load import load_pipeline

        settings = self.settings
        return load_pipeline(
            model=settings.model,
            run_type=settings.run_type,
            task="img2img" if refiner and settings.task == "text2img" else settings.task,
            weight_path=settings.weight_path,
            config_path=settings.config_path,
            device=settings.device,
            dtype=named_dtype(settings.dtype),
            scheduler=settings.scheduler,
            lora=() if refiner else settings.lora,
            textual_inversion=() if refiner else settings.textual_inversion,
            refiner=refiner,
        )

    def _generate(self, pipe: Any, refiner: Any) -> tuple[Image.Image, Passes | None]:
        """The picture, and how many passes of each kind the base took where they are not all dense."""
        import sige

        with nullcontext() if self.config is None else sige.enable(pipe) as handle:
            image = self._call(pipe, refiner)
            return image, None if handle is None else handle.passes

    def _call(self, pipe: Any, refiner: Any) -> Image.Image:
        from sdxl.edits import edit as editing

        inputs, task = self.inputs, self.settings.task
        more: dict[str, Any] = {"sampling": _sampling(self.settings), "refiner": refiner}
        if task == "text2img":
            return editing.text2img(pipe, self._size(pipe), **more)
        if task == "img2img":
            return editing.img2img(pipe, _given(inputs.image), **more)
        if task == "sdedit":
            return editing.sdedit(pipe, inputs.image, _given(inputs.edited), config=self.config, **more)
        return editing.edit(pipe, _given(inputs.image), mask=_given(inputs.mask), config=self.config, **more)

    def _size(self, pipe: Any) -> Size:
        """Of a picture from text alone: what the model was trained at, unless it was said."""
        side = int(pipe.unet.config.sample_size) * 8
        side = min(side, TURBO_SIDE) if self.settings.turbo else side
        return self.settings.height or side, self.settings.width or side

    def _summary(self, image: Image.Image, steps: list[int], seconds: float, passes: Passes | None) -> str:
        settings = self.settings
        taken = f"{steps[0]} steps" + "".join(f" and {count} of the refiner" for count in steps[1:])
        facts = f"{size_text(size_of(image))}, seed {settings.seed}, {taken} at scale {settings.scale:g}"
        facts += f" in {seconds:.1f} s ({sum(steps) / seconds:.2f} steps/s, VAE included)"
        if self.region is None or passes is None or not passes.dense:  # a full mask has nothing to reuse
            return facts
        height, width = self.region.image_size
        ratio = self.region.ratio(height // 8, width // 8)
        work = (passes.dense + passes.packed * ratio) / max(steps[0], 1)
        return f"{facts}, {passes.dense} dense and {passes.packed} packed passes, {work:.0%} of the dense work"


def _steps(pipe: Any) -> int:
    """How many the last call took: strength and a split leave some out."""
    return int(getattr(pipe, "num_timesteps", 0))


# ---- what the flags mean ---------------------------------------------------------------------------------------------


def choose_model(settings: Settings) -> Settings:
    """The settings with `auto` replaced, where all the weights are there that the run needs."""
    from sdxl.pipelines.load import find_kind

    model = _named_by(settings.weight_path) if settings.model == "auto" else settings.model
    try:
        for refiner in (False, True) if settings.refined else (False,):
            find_kind(model, settings.run_type, settings.weight_path, refiner, settings.task)
    except SdxlError as error:
        if settings.model != "auto":
            raise
        model = _without_weights(settings, error)
    return replace(settings, model=model)


def _without_weights(settings: Settings, error: SdxlError) -> str:
    """The embedded model, where it can do what is asked and no file was named; else the error, with what runs."""
    advice = f"{error}; --model tiny runs without any, on random weights"
    if settings.refined or settings.turbo:
        raise type(error)(f"{advice}; the embedded model has neither turbo nor a refiner") from error
    try:
        embedded_weights(embedded_kind(settings.task))
    except CheckpointError as missing:
        raise type(error)(advice) from missing
    if settings.weight_path.suffix == ".safetensors":
        raise type(error)(f"{advice}; --model embedded takes the small trained one") from error
    logger.warning(
        "note: no weights in %s: using the embedded demo model, trained on 256x256 drawings "
        "(docs/checkpoints.md says how to get SDXL)",
        settings.weight_path,
    )
    return EMBEDDED


def _check_extras(settings: Settings) -> None:
    for flag, files in (("--lora", settings.lora), ("--textual_inversion", settings.textual_inversion)):
        for file in files:
            if not Path(file).exists():
                raise InputError(f"{flag}: {file} does not exist")


def _named_by(weight_path: Path) -> str:
    """The model of a file that was named itself; in a folder it is SDXL that is looked for."""
    from sdxl.pipelines.load import kind_of

    kind = kind_of(weight_path) if weight_path.is_file() else "sdxl-base"
    return {"sd15": "sd15", "sd15-inpaint": "sd15", "sdxl-inpaint": "sdxl-inpaint"}.get(kind, "sdxl")


def place(settings: Settings) -> Settings:
    """The settings with the device and the dtype that `auto` means on this machine."""
    import torch

    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    count = torch.cuda.device_count() if device.startswith("cuda") and torch.cuda.is_available() else 0
    if device.startswith("cuda") and int(device.partition(":")[2] or 0) >= count:
        raise InputError(f"--device {device}: torch sees {count} GPUs here; take --device cpu")
    dtype = settings.dtype
    if dtype == "auto":
        dtype = "fp32" if device == "cpu" else "fp16"
    return replace(settings, device=device, dtype=dtype)


def edit_config(settings: Settings) -> EditConfig:
    """How the steps are shared between dense and packed passes; what was not said is the engine's default."""
    from sige import EditConfig

    said = {name: getattr(settings, name) for name in POLICY}
    return EditConfig(**{name: value for name, value in said.items() if value is not None})


def _sampling(settings: Settings) -> Sampling:
    from sdxl.edits.edit import Sampling

    return Sampling(
        prompt=settings.prompt or "",
        negative_prompt=settings.negative_prompt,
        prompt_2=settings.prompt_2,
        negative_prompt_2=settings.negative_prompt_2,
        steps=settings.steps,
        scale=settings.scale,
        eta=settings.eta,
        strength=settings.strength,
        seed=settings.seed,
        original_size=settings.original_size,
        target_size=settings.target_size,
        crops_coords_top_left=settings.crops_coords_top_left,
        negative_original_size=settings.negative_original_size,
        negative_target_size=settings.negative_target_size,
        negative_crops_coords_top_left=settings.negative_crops_coords_top_left,
        denoising_split=settings.denoising_split,
    )
