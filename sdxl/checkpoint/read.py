"""Reads weights into models, tensor by tensor in the order of the file: peak memory is the models plus one tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sdxl.checkpoint.header import Header
from sdxl.checkpoint.keys import Entry
from sdxl.checkpoint.models import complete
from sdxl.checkpoint.sources import Source
from sdxl.checkpoint.tensors import TensorReader
from sdxl.errors import CheckpointError

__all__ = ["Options", "fill"]


@dataclass(frozen=True)
class Options:
    """The options of reading: the dtype, the device, the check for NaN and infinity, the progress bar."""

    dtype: torch.dtype
    device: torch.device
    check_finite: bool = True
    progress: bool = True


def fill(models: Mapping[str, nn.Module], sources: Sequence[Source], options: Options) -> None:
    """Gives the models their weights, after all are read: a file that fails leaves the models without weights."""
    from tqdm import tqdm

    shapes = {part: {key: value.shape for key, value in model.state_dict().items()} for part, model in models.items()}
    states: dict[str, dict[str, Tensor]] = {part: {} for part in models}
    total = sum(header.tensors[entry.file_key].bytes for header, entries in sources for entry in entries)
    bar = tqdm(
        total=total, unit="B", unit_scale=True, desc="loading", disable=None if options.progress else True, leave=False
    )
    with bar:
        for header, entries in sources:
            with TensorReader(header) as reader:
                for entry in sorted(entries, key=lambda entry: header.tensors[entry.file_key].start):
                    tensor = _convert(reader.read(entry.file_key), header, entry, options)
                    for key, piece in _pieces(tensor, entry):
                        shape = shapes[entry.part][key]
                        states[entry.part][key] = piece.reshape(shape).to(options.device)
                    bar.update(header.tensors[entry.file_key].bytes)
    for part, model in models.items():
        complete(model, states.pop(part), options.device)


def _convert(tensor: Tensor, header: Header, entry: Entry, options: Options) -> Tensor:
    converted = tensor.to(options.dtype)
    if options.check_finite and not _is_finite(converted):
        name = str(options.dtype).removeprefix("torch.")
        if tensor.dtype != options.dtype and _is_finite(tensor.float()):
            fault = f"holds values that {name} cannot; load it with a wider dtype"
        else:
            fault = "holds NaN or infinity; download it again, or pass check_finite=False"
        raise CheckpointError(f"{header.path}: {entry.file_key}: {fault}")
    return converted


def _is_finite(tensor: Tensor) -> bool:
    """Says whether all values are finite. Minimum and maximum are NaN if any value is, and need no mask in memory."""
    if not tensor.numel():
        return True
    low, high = tensor.aminmax()
    return bool(low.isfinite() and high.isfinite())


def _pieces(tensor: Tensor, entry: Entry) -> Iterator[tuple[str, Tensor]]:
    """The name and value of each parameter in one stored tensor; each has memory of its own."""
    if entry.transposed:
        tensor = tensor.t().contiguous()
    if len(entry.model_keys) == 1:
        yield entry.model_keys[0], tensor
    else:
        yield from zip(entry.model_keys, (chunk.clone() for chunk in tensor.chunk(len(entry.model_keys))), strict=True)
