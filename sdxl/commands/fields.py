"""The fields of a command's settings, before any rule is checked."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path

from sige.sizes import Size

__all__ = ["SCALE", "STEPS", "TURBO_SCALE", "TURBO_STEPS", "Fields"]

TURBO_STEPS, STEPS = 4, 50
TURBO_SCALE, SCALE = 0.0, 7.5


def _random_seed() -> int:
    return secrets.randbelow(2**32)


@dataclass(frozen=True)
class Fields:
    """The settings that one command gives; `None` and `()` mean that it leaves a setting out."""

    task: str = "inpainting"
    mode: str = "generate"
    run_type: str = "original"
    refined: bool = False
    model: str = "auto"

    prompt: str | None = None
    negative_prompt: str | None = None
    prompt_2: str | None = None
    negative_prompt_2: str | None = None
    clip_skip: int | None = None

    init_img: Path | None = None
    mask_path: Path | None = None
    edited_img: Path | None = None
    output_path: Path | None = None
    height: int | None = None
    width: int | None = None
    grow: int | None = None
    mask_blur: int | None = None
    match_edge: int | None = None
    only_masked: int | None = None
    n: int = 1

    steps: int = STEPS
    scale: float = SCALE
    eta: float = 0.0
    strength: float | None = None
    keep: str | None = None
    seed: int = field(default_factory=_random_seed)
    scheduler: str | None = None
    denoising_split: float | None = None

    original_size: Size | None = None
    target_size: Size | None = None
    crops_coords_top_left: Size | None = None
    negative_original_size: Size | None = None
    negative_target_size: Size | None = None
    negative_crops_coords_top_left: Size | None = None

    policy: str | None = None
    preset: str | None = None
    dense_steps: int | tuple[int, ...] | None = None
    skipped_steps: tuple[int, ...] = ()
    half_steps: tuple[int, ...] = ()
    outer_steps: tuple[int, ...] = ()
    schedule: str | None = None
    forecast: str | None = None
    dilation: int | None = None

    tome_ratio: float | None = None
    tome_max_downsample: int | None = None
    tome_sx: int | None = None
    tome_sy: int | None = None
    tome_use_rand: bool | None = None
    tome_merge_attn: bool | None = None
    tome_merge_crossattn: bool | None = None
    tome_merge_mlp: bool | None = None

    session: Path | None = None
    undo: bool = False
    budget: str | None = None

    config_path: Path = Path("configs")
    weight_path: Path = Path("pretrained")
    lora: tuple[str, ...] = ()
    textual_inversion: tuple[str, ...] = ()
    vae: Path | None = None
    controlnet: Path | None = None
    control_image: Path | None = None
    control_scale: float | None = None
    device: str = "auto"
    dtype: str = "auto"
    attention: str = "auto"
    offload: str = "none"

    json: Path | None = None
    macs_only: bool = False
    runs: int | None = None

    @property
    def sparse(self) -> bool:
        """Says whether only what the edit touches is recomputed."""
        return self.run_type.startswith("sige")

    @property
    def turbo(self) -> bool:
        """Says whether the weights are those of SDXL Turbo."""
        return self.run_type.endswith("turbo")

    @property
    def generates(self) -> bool:
        """Says whether the command makes a picture, and not a profile."""
        return self.mode == "generate"
