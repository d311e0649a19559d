"""The training loop: steps, a CSV line for each, now and then a state and a sample; accelerate runs many processes."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from sdxl.errors import InputError, SdxlError
from sdxl.training.ema import Average
from sdxl.training.plot import plot_losses
from sdxl.training.processes import processes
from sdxl.training.state import check_state, load_state, save_state
from sige.files import atomic_write, check_output, named_if_full

__all__ = ["LoopConfig", "check_resumes", "train"]

STATE = "state.pt"
FULL = "no"  # accelerate's name for fp32
PRECISIONS = (FULL, "fp16", "bf16")
MOST = 10**9  # of steps, and of pictures in one


@dataclass(frozen=True)
class LoopConfig:
    """The length of the training, its learning rate, and how often it saves states and samples."""

    steps: int
    batch: int  # pictures of a step, over all processes and accumulated parts
    rate: float = 1e-3
    warmup: int = 100
    accumulate: int = 1
    weight_decay: float = 0.01
    clip: float = 1.0
    decay: float = 0.999  # of the average
    precision: str = FULL  # one of PRECISIONS
    gradient_checkpointing: bool = False  # of the UNet or the VAE: less memory, a third more time, the same gradients
    save_every: int = 200
    sample_every: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "save_every"):
            if not 1 <= getattr(self, name) <= MOST:
                raise InputError(f"{name}: got {getattr(self, name)}, expected at least 1, at most {MOST}")
        for name in ("warmup", "sample_every"):
            if not 0 <= getattr(self, name) <= MOST:
                raise InputError(f"{name}: got {getattr(self, name)}, expected a number from 0 to {MOST}")
        for name, most in (("rate", 1e3), ("weight_decay", 1e3), ("clip", 1e9), ("decay", 1.0)):
            if not 0 <= getattr(self, name) <= most:  # false for NaN, too
                raise InputError(f"{name}: got {getattr(self, name)}, expected a number from 0 to {most:g}")
        if self.precision not in PRECISIONS:
            raise InputError(f"precision: got {self.precision!r}, expected one of {', '.join(PRECISIONS)}")

    def rate_at(self, step: int) -> float:
        """The learning rate of a step: it rises to the full rate, then falls along half a cosine to zero.

        >>> config = LoopConfig(steps=100, batch=1, rate=1.0, warmup=10)
        >>> [round(config.rate_at(step), 2) for step in (0, 9, 55, 99)]
        [0.1, 1.0, 0.5, 0.0]
        """
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(self.steps - self.warmup, 1)
        return self.rate * 0.5 * (1 + math.cos(math.pi * done))


Sampler = Callable[[int], None]
BatchOf = Callable[[int, tuple[int, int]], Any]  # step, (part, parts) -> that part of the step's batch; has .to(device)


def train(
    module: nn.Module,
    batch_of: BatchOf,
    config: LoopConfig,
    folder: Path,
    sample: Sampler | None = None,
    identity: Mapping[str, Any] = MappingProxyType({}),
) -> Average:
    """Trains the parameters that require gradients, from the state in the folder if there is one; returns the average.

    `module(batch)` is the loss. A batch depends on the step alone, so a training that was stopped gives the same losses
    as one that was not, and two processes compute the gradients of one process with the whole batch. A state goes on
    with the same `config` and `identity` alone; the latter holds whatever else the losses depend on.
    """
    accelerator = _accelerator(config)
    parts = config.accumulate * accelerator.num_processes
    if config.batch % parts:
        raise InputError(f"batch: got {config.batch}, expected a multiple of accumulate x processes, {parts}")
    optimizer = torch.optim.AdamW(
        [value for value in module.parameters() if value.requires_grad], config.rate, weight_decay=config.weight_decay
    )
    average = Average(module, config.decay)
    folder.mkdir(parents=True, exist_ok=True)
    state, about = folder / STATE, _about(config, identity)
    first = load_state(state, module, optimizer, average, about) if state.is_file() else 0
    wrapped, optimizer = accelerator.prepare(module, optimizer)
    average.to(accelerator.device)
    log = _Log(folder / "loss.csv", first) if accelerator.is_main_process else None
    bar = tqdm(range(first, config.steps), initial=first, total=config.steps, desc="training",
               disable=None if accelerator.is_main_process else True)  # fmt: skip
    for step in bar:
        loss = _step(accelerator, wrapped, optimizer, batch_of, config, step)
        average.update(step)
        if log is not None:
            log.add(step, loss, config.rate_at(step))
        bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        done = step + 1
        if accelerator.is_main_process and (done % config.save_every == 0 or done == config.steps):
            save_state(state, done, module, optimizer, average, about)
        if accelerator.is_main_process and config.sample_every and done % config.sample_every == 0:
            _show(folder, average, sample, done)
    if accelerator.is_main_process:
        plot_losses(folder / "loss.csv", folder / "loss.png")
    return average


def check_resumes(config: LoopConfig, folder: Path, identity: Mapping[str, Any]) -> None:
    """Refuses a folder with the state of another training, before anything takes time."""
    state = folder / STATE
    check_output(state)
    if state.is_file():
        check_state(state, _about(config, identity))


def _accelerator(config: LoopConfig) -> Any:
    from accelerate import Accelerator, DistributedDataParallelKwargs

    processes()  # with more patience than accelerate's own
    # Some parameters get no gradients: SDXL never reads the last layer of its first text encoder.
    parallel = DistributedDataParallelKwargs(find_unused_parameters=True)
    cpu = not torch.cuda.is_available()
    return Accelerator(mixed_precision=config.precision, cpu=cpu, kwargs_handlers=[parallel])


def _show(folder: Path, average: Average, sample: Sampler | None, done: int) -> None:
    """Writes the plot of the losses and a sample, to be looked at during the training."""
    plot_losses(folder / "loss.csv", folder / "loss.png")
    if sample is not None:
        with average.applied():
            sample(done)


def _step(
    accelerator: Any, module: nn.Module, optimizer: Any, batch_of: BatchOf, config: LoopConfig, step: int
) -> float:
    """Makes one step of the optimizer on the global batch, and returns the mean loss."""
    for group in optimizer.param_groups:
        group["lr"] = config.rate_at(step)
    parts, total = config.accumulate * accelerator.num_processes, 0.0
    for turn in range(config.accumulate):
        batch = batch_of(step, (turn * accelerator.num_processes + accelerator.process_index, parts))
        waits = turn < config.accumulate - 1  # gradients are exchanged once, after the last turn
        with accelerator.no_sync(module) if waits else nullcontext():
            loss = module(batch.to(accelerator.device)) / config.accumulate
            accelerator.backward(loss)
        total += float(accelerator.reduce(loss.detach(), "mean"))
    if not math.isfinite(total):
        raise SdxlError(f"step {step}: the loss is {total}: take a lower rate, or bf16; the last state is kept")
    accelerator.clip_grad_norm_(module.parameters(), config.clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total


def _about(config: LoopConfig, identity: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that must be the same for a training to go on; those that change no number are left out."""
    free = {"save_every", "sample_every", "gradient_checkpointing"}
    return dict(identity) | {f"loop.{name}": value for name, value in asdict(config).items() if name not in free}


class _Log:
    """The CSV of the losses; lines that a killed training wrote after its last state are cut off."""

    def __init__(self, path: Path, first: int) -> None:
        self.path = path
        kept = [row for row in _rows(path) if int(row[0]) < first]
        with atomic_write(path) as temporary, temporary.open("w", newline="") as file:
            csv.writer(file).writerows([["step", "loss", "rate"], *kept])

    def add(self, step: int, loss: float, rate: float) -> None:
        with named_if_full(self.path), self.path.open("a", newline="") as file:
            csv.writer(file).writerow([step, f"{loss:.8g}", f"{rate:.6g}"])


def _rows(path: Path) -> list[list[str]]:
    """The rows that `_Log` wrote, [step, loss, rate]; others are left out."""
    if not path.is_file():
        return []
    with suppress(csv.Error):  # a field of a damaged file may be longer than the module reads
        rows = list(csv.reader(path.read_text(errors="replace").splitlines()))
        return [row for row in rows if len(row) == 3 and re.fullmatch(r"[0-9]{1,9}", row[0]) and _are_numbers(row)]
    return []


def _are_numbers(texts: list[str]) -> bool:
    with suppress(ValueError):
        return bool([float(text) for text in texts])
    return False
