"""The rules for what is added to a model's weights, and for the memory that they take."""

from __future__ import annotations

from sdxl.commands.fields import Fields
from sdxl.pipelines.lora import with_strength

__all__ = ["check_weights"]


def check_weights(settings: Fields) -> None:
    """Raises `InputError` for the first rule that is broken."""
    for text in settings.lora:
        with_strength(text)
