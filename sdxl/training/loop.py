"""The training loop: steps, a CSV line for each, now and then a state and a sample; accelerate runs many processes."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from sdxl.errors import InputError, SdxlError
from sdxl.training.ema import Average
from sdxl.training.plot import plot_losses
from sdxl.training.processes import processes
from sdxl.training.state import load_state, save_state
from sige.files import atomic_write

__all__ = ["LoopConfig", "train"]


FULL = "no"  # accelerate's name for fp32
PRECISIONS = (FULL, "fp16", "bf16")


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
            if getattr(self, name) < 1:
                raise InputError(f"{name}: got {getattr(self, name)}, expected at least 1")
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
    module: nn.Module, batch_of: BatchOf, config: LoopConfig, folder: Path, sample: Sampler | None = None
) -> Average:
    """Trains the parameters that require gradients, from the state in the folder if there is one; returns the average.

    `module(batch)` is the loss. A batch depends on the step alone, so a training that was stopped gives the same losses
    as one that was not, and two processes compute the gradients of one process with the whole batch.
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
    state, about = folder / "state.pt", _about(config)
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


def _about(config: LoopConfig) -> dict[str, Any]:
    """The settings that must be the same for a training to go on; those that change no number are left out."""
    free = {"save_every", "sample_every", "gradient_checkpointing"}
    return {name: value for name, value in asdict(config).items() if name not in free}


class _Log:
    """The CSV of the losses; lines that a killed training wrote after its last state are cut off."""

    def __init__(self, path: Path, first: int) -> None:
        rows = list(csv.reader(path.read_text().splitlines())) if path.is_file() else []
        kept = [row for row in rows[1:] if row and int(row[0]) < first]
        with atomic_write(path) as temporary, temporary.open("w", newline="") as file:
            csv.writer(file).writerows([["step", "loss", "rate"], *kept])
        self._file = path.open("a", newline="")
        self._writer = csv.writer(self._file)

    def add(self, step: int, loss: float, rate: float) -> None:
        self._writer.writerow([step, f"{loss:.8g}", f"{rate:.6g}"])
        self._file.flush()
