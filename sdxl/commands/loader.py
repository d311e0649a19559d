"""The pipelines that the flags of a server or a batch name: found once, loaded for each worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sdxl.commands.fields import Fields
from sdxl.commands.weights import Chosen, choose_weights, place
from sdxl.pipelines.find import Weights
from sdxl.pipelines.load import for_task, load_weights
from sdxl.pipelines.schedulers import default_scheduler
from sige.dtypes import named_dtype

__all__ = ["loader", "name_of", "scheduler_of"]


def loader(said: Callable[[str], Fields]) -> Callable[[str], Any]:
    """A function that loads the pipeline of a task; tasks with the same weights share their models.

    `said` gives the fields of a command for the task. Each worker calls `loader` for itself: models serve one thread.
    """
    loaded: dict[Weights, Any] = {}

    def load(task: str) -> Any:
        chosen = choose_weights(said(task))
        fields = place(chosen.settings)
        if chosen.base in loaded:
            return for_task(loaded[chosen.base], task)
        pipe = load_weights(
            chosen.base,
            task=task,
            device=fields.device,
            dtype=named_dtype(fields.dtype),
            scheduler=fields.scheduler,
            lora=fields.lora,
            vae=fields.vae,
            attention=fields.attention,
            offload=fields.offload,
        )
        pipe.set_progress_bar_config(disable=True)
        loaded[chosen.base] = pipe
        return pipe

    return load


def name_of(chosen: Chosen[Fields]) -> str:
    """The name of the model, as a client or a picture says it: of the file where one was named, else of the model."""
    file = chosen.settings.weight_path
    return file.stem if file.suffix == ".safetensors" else chosen.settings.model


def scheduler_of(chosen: Chosen[Fields]) -> str:
    """The scheduler that the model's pipelines paint with."""
    return chosen.settings.scheduler or default_scheduler(chosen.base.kind)
