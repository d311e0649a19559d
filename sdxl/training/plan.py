"""What a configuration in `configs/train` says, checked before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from sdxl.errors import InputError
from sdxl.training.loop import LoopConfig

__all__ = ["Data", "Plan", "load_plan"]

STAGES = ("vae", "diffusion")


@dataclass(frozen=True)
class Data:
    """Scenes of our own; `crop` is for the VAE, which learns from parts of pictures."""

    scenes: int
    side: int = 256
    crop: int = 0  # 0: half of the side

    def __post_init__(self) -> None:
        if not self.crop:
            object.__setattr__(self, "crop", max(self.side // 16 * 8, 8))
        for name in ("side", "crop"):
            if getattr(self, name) < 8 or getattr(self, name) % 8:
                raise InputError(f"data.{name}: got {getattr(self, name)}, expected a multiple of 8")
        if self.scenes < 1 or self.crop > self.side:
            raise InputError(f"data: got {self.scenes} scenes, crops of {self.crop} from {self.side}")


@dataclass(frozen=True)
class Plan:
    """One stage of training."""

    stage: str  # vae, diffusion
    out: Path
    data: Data
    loop: LoopConfig
    kind: str = "sdxl-base"
    variant: str = "full"  # the config of the shapes
    seed: int = 0  # of everything that is random
    start: Path | None = None  # a checkpoint to go on from; None: from nothing
    vae: Path | None = None  # the checkpoint whose VAE and tokenizers a diffusion stage from nothing takes
    drop: float = 0.1  # share of the captions that are left out, for guidance
    min_snr: float | None = None
    prompts: tuple[str, ...] = field(default=())  # what the samples show

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise InputError(f"stage: got {self.stage!r}, expected one of {', '.join(STAGES)}")
        if not 0 <= self.drop <= 1:
            raise InputError(f"drop: got {self.drop}, expected a share from 0 to 1")
        if self.stage == "diffusion" and self.start is None and self.vae is None:
            raise InputError("a diffusion stage needs `start`, or `vae`: the checkpoint whose VAE it learns on")


def load_plan(path: Path) -> Plan:
    """The plan in a YAML file; an unknown key is an error that names it."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    if not path.is_file():
        raise InputError(f"{path} does not exist: expected a file such as configs/train/embedded-base.yaml")
    try:
        content: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (OmegaConfBaseException, YAMLError, ValueError) as error:
        raise InputError(f"{path} is no YAML that can be read: {' '.join(str(error).split())[:120]}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, expected a mapping")
    parts = {"data": Data, "loop": LoopConfig}
    made = {name: _make(kind, content.pop(name, {}), f"{path}: {name}") for name, kind in parts.items()}
    for name in ("out", "start", "vae"):
        if content.get(name) is not None:
            content[name] = Path(content[name])
    content["prompts"] = tuple(content.get("prompts") or ())
    return _make(Plan, {**content, **made}, str(path))  # type: ignore[no-any-return]


def _make(kind: Any, values: Any, where: str) -> Any:
    known = {item.name for item in fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise InputError(f"{where}: no setting {unknown[0]!r}, expected some of {', '.join(sorted(known))}")
    try:
        return kind(**values)
    except TypeError as error:
        raise InputError(f"{where}: {' '.join(str(error).split())}") from error
