"""The plan of a training: a configuration of `configs/train`, checked before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sdxl.errors import InputError
from sdxl.training.loop import LoopConfig
from sdxl.training.reading import build, read

__all__ = ["TIMESTEPS", "Data", "Distil", "Lora", "Plan", "load_plan"]

STAGES = ("vae", "diffusion", "distil")
KINDS = ("sdxl-base", "sdxl-inpaint", "sdxl-refiner", "sd15", "sd15-inpaint")
TIMESTEPS = 1000  # of the noise schedule
LEARN = ("all", "unet", "lora")
MOST = 10**9  # of scenes and repeats
MOST_SIDE = 16384  # pixels
MOST_WEIGHT = 1000
MOST_RANK = 16384  # of the matrices of a LoRA, which are never wider than a layer


@dataclass(frozen=True)
class Data:
    """The pictures to learn from: a folder's or our own scenes, and the size of the cuts."""

    scenes: int = 0  # number of scenes
    folder: Path | None = None  # pictures and a metadata.jsonl with their captions
    side: int = 256
    height: int = 0  # 0: the side
    width: int = 0
    crop: int = 0  # side of the crops that the stage `vae` learns from; 0: half of the side
    repeats: int = 1  # draws of each picture: crops, flips and masks
    flip: bool = False  # every other crop is mirrored

    def __post_init__(self) -> None:
        defaults = {"height": self.side, "width": self.side, "crop": max(self.side // 16 * 8, 8)}
        for name, default in defaults.items():
            object.__setattr__(self, name, getattr(self, name) or default)
        for name in ("side", *defaults):
            if not 8 <= getattr(self, name) <= MOST_SIDE or getattr(self, name) % 8:
                raise InputError(f"data.{name}: got {getattr(self, name)}, expected a multiple of 8 up to {MOST_SIDE}")
        if (self.folder is None) == (self.scenes == 0):
            raise InputError(
                f"data: got folder {self.folder} and {self.scenes} scenes, expected one of the two: write "
                "`folder: PATH`, or `scenes: 10000`; data.scenes=0 on the command line takes scenes away"
            )
        if not 0 <= self.scenes <= MOST or self.crop > self.side:
            raise InputError(f"data: got {self.scenes} scenes, crops of {self.crop} from {self.side}")
        if self.scenes and self.height != self.width:
            raise InputError(f"data: got {self.height} x {self.width}, but scenes are square: write `side`")
        if not 1 <= self.repeats <= MOST:
            raise InputError(f"data.repeats: got {self.repeats}, expected a number from 1 to {MOST}")


@dataclass(frozen=True)
class Lora:
    """The matrices of small rank that are learned beside the frozen ones."""

    rank: int = 16
    alpha: int = 16  # the matrices are multiplied by alpha / rank
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")  # the ends of layers' names

    def __post_init__(self) -> None:
        if not 1 <= self.rank <= MOST_RANK or not 1 <= self.alpha <= MOST_RANK or not self.targets:
            raise InputError(f"lora: got rank {self.rank}, alpha {self.alpha} and {len(self.targets)} targets")


@dataclass(frozen=True)
class Distil:
    """A teacher's many guided steps, which a student learns to make in few steps without guidance."""

    steps: int = 4  # of the student
    teacher_steps: int = 15  # by DPM-Solver++, each with and without the caption
    guidance: float = 7.5

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= self.teacher_steps <= TIMESTEPS:
            raise InputError(
                f"distil: got {self.steps} steps and {self.teacher_steps} teacher_steps, expected at least one step, "
                "and no fewer of the teacher"
            )


@dataclass(frozen=True)
class Plan:
    """One stage of training."""

    stage: str  # vae, diffusion, distil
    out: Path
    data: Data
    loop: LoopConfig
    kind: str | None = None  # None: the kind of `start`, else sdxl-base
    variant: str = "full"  # without `start`: the config of the shapes
    seed: int = 0  # of all random numbers
    start: Path | None = None  # the checkpoint to go on from; None: new models
    vae: Path | None = None  # without `start`: the checkpoint whose VAE, and a refiner's text encoder, are used
    learn: str | None = None  # all, unet, lora; None: unet with `start`, all without
    lora: Lora = field(default_factory=Lora)
    distil: Distil = field(default_factory=Distil)
    timesteps: int = TIMESTEPS  # those below are learned: a refiner sees little noise
    pure_from: int | None = None  # timesteps from here on begin with pure noise, as a sampler does
    drop: float = 0.1  # share of the captions that are left out, for guidance
    min_snr: float | None = None  # less weight for the timesteps with little noise
    velocity: bool = False  # more weight for the timesteps with much noise
    masked: float = 1.0  # weight of what lies under the mask; the rest has 1
    prompts: tuple[str, ...] = ()  # prompts of the samples

    def __post_init__(self) -> None:
        for name, known in (("stage", STAGES), ("kind", KINDS), ("learn", LEARN)):
            value = getattr(self, name)
            if value is not None and value not in known:
                raise InputError(f"{name}: got {value!r}, expected one of {', '.join(known)}")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed: got {self.seed}, expected a number from 0 to {2**63 - 1}")
        if self.min_snr is not None and not 0 < self.min_snr < math.inf:
            raise InputError(f"min_snr: got {self.min_snr}, expected a number above 0, such as 5")
        if self.min_snr is not None and self.velocity:
            raise InputError("velocity, min_snr: both weigh the timesteps: leave one of the two out")
        if not 0 < self.masked <= MOST_WEIGHT:
            raise InputError(f"masked: got {self.masked}, expected a number above 0, such as 4, at most {MOST_WEIGHT}")
        if not 0 <= self.drop <= 1:
            raise InputError(f"drop: got {self.drop}, expected a share from 0 to 1")
        if not 1 <= self.timesteps <= TIMESTEPS:
            raise InputError(f"timesteps: got {self.timesteps}, expected a number from 1 to {TIMESTEPS}")
        if self.pure_from is not None and not 0 <= self.pure_from < TIMESTEPS:
            raise InputError(f"pure_from: got {self.pure_from}, expected a timestep, such as 950, below {TIMESTEPS}")
        if self.stage == "vae":
            self._check_vae()
        elif self.stage == "distil":
            self._check_distil()
        elif self.start is None:
            self._check_from_nothing()

    def _check_vae(self) -> None:
        if self.data.folder is not None:
            raise InputError("data.folder: the stage vae learns from scenes only, expected data.scenes")
        if self.learn is not None:
            raise InputError(f"learn: got {self.learn!r}, but the stage vae learns the VAE: leave it out")

    def _check_distil(self) -> None:
        if self.start is None:
            raise InputError("start: is missing: the stage distil needs a checkpoint of sdxl-base, the teacher")
        if self.kind not in (None, "sdxl-base"):
            raise InputError(f"kind: got {self.kind!r}, but the stage distil makes a turbo of sdxl-base: leave it out")
        if self.learn == "lora":
            raise InputError("learn: got 'lora', but the stage distil writes a whole turbo: take unet, or leave it out")
        own = {"timesteps": TIMESTEPS, "pure_from": None, "min_snr": None, "velocity": False, "masked": 1.0}
        for name, default in own.items():
            if getattr(self, name) != default:
                raise InputError(f"{name}: the stage distil learns its own few timesteps, all alike: leave it out")

    def _check_from_nothing(self) -> None:
        if self.vae is None:
            raise InputError("a diffusion stage needs `start`, or `vae`: the checkpoint whose VAE it learns on")
        whole = "unet" if self.kind == "sdxl-refiner" else "all"  # a refiner reads its base's text encoder
        if self.learn not in (None, whole):
            raise InputError(f"learn: got {self.learn!r} without `start`, expected {whole!r}: leave it out")

    @property
    def learns(self) -> str:
        """The weights that learn: one of LEARN."""
        return self.learn or ("all" if self.start is None and self.kind != "sdxl-refiner" else "unet")


def load_plan(path: Path, overrides: Sequence[str] = ()) -> Plan:
    """The plan in a YAML file; an unknown key is an error that names it.

    >>> load_plan(Path("configs/train/embedded-base.yaml"), ["loop.steps=10"]).loop.steps
    10
    """
    content = read(path, overrides)
    plan: Plan = build(Plan, content, str(path))
    return plan
