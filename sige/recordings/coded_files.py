"""Coded recordings and patches as safetensors files; what is read is checked, for a file may be damaged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from sige.errors import DamagedError
from sige.files import atomic_write
from sige.recordings.coded import CODES, Coded, CodedPatch, CodedRows
from sige.tensor_files import check_header_length

__all__ = ["damaged_unless_read", "load_coded", "load_patch", "save_coded", "save_patches"]


def save_coded(coded: Coded, path: Path) -> None:
    """Writes a recording; the file appears whole or not at all."""
    tensors = _rows_of(coded.rows, "") | {f"stats/{key}": stats for key, stats in coded.stats.items()}
    facts = {"code": coded.code, "input": list(coded.input.shape), "dtype": _name(coded.input.dtype)}
    _save(tensors | {"output": coded.output}, facts | {"rows": _dtypes(coded.rows)}, path)


def load_coded(path: Path, device: torch.device) -> Coded:
    """A recording that `save_coded` wrote; raises `DamagedError` for anything else."""
    with damaged_unless_read(path):
        tensors, facts = _load(path, device)
        shape = torch.empty(_sizes(facts["input"]), dtype=_dtype(facts["dtype"]), device="meta")
        stats = {name.removeprefix("stats/"): one for name, one in tensors.items() if name.startswith("stats/")}
        for key, one in stats.items():
            _check(key, one, (*one.shape[:2], 2), torch.float64)
        if facts["code"] not in CODES or tensors["output"].dim() != 4:
            raise ValueError("its code or its output is none of a recording")
        return Coded(facts["code"], _rows(tensors, facts["rows"], ""), stats, shape, tensors["output"])


def save_patches(patches: dict[str, CodedPatch], path: Path) -> None:
    """Writes patches by name into one file."""
    tensors: dict[str, Tensor] = {}
    facts: dict[str, Any] = {}
    for name, patch in patches.items():
        tensors |= _rows_of(patch.rows, f"{name}/") | {f"{name}/output": patch.output}
        tensors |= {f"{name}/index/{count}": index for count, index in patch.index.items()}
        facts[name] = {"rows": _dtypes(patch.rows), "index": list(patch.index)}
    _save(tensors, facts, path)


def load_patch(path: Path, name: str, device: torch.device) -> CodedPatch | None:
    """One of the patches in a file; None where it holds none of that name. `DamagedError` as in `load_coded`."""
    with damaged_unless_read(path):
        tensors, facts = _load(path, device, f"{name}/")
        if name not in facts:
            return None
        index = {int(count): tensors[f"{name}/index/{int(count)}"] for count in facts[name]["index"]}
        for count, places in index.items():
            _check(f"index/{count}", places, (places.numel(),), torch.int32)
            if places.numel() and not (places.min() >= 0 and places.max() < count):
                raise ValueError(f"its index has positions beyond {count}")
        return CodedPatch(index, _rows(tensors, facts[name]["rows"], f"{name}/"), tensors[f"{name}/output"])


@contextmanager
def damaged_unless_read(path: Path) -> Iterator[None]:
    """Inside, whatever a file's content leads to is a `DamagedError`; running out of memory stays what it is."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, DamagedError):
        raise
    except Exception as error:  # a damaged file may hold anything
        if "DefaultCPUAllocator" in str(error):
            raise
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise DamagedError(f"{path}: holds no recording that can be read ({why})") from error


def _rows_of(rows: dict[str, CodedRows], prefix: str) -> dict[str, Tensor]:
    tensors = {f"{prefix}rows/{key}": one.values for key, one in rows.items()}
    return tensors | {f"{prefix}scale/{key}": one.scale for key, one in rows.items() if one.scale is not None}


def _rows(tensors: dict[str, Tensor], dtypes: dict[str, str], prefix: str) -> dict[str, CodedRows]:
    rows = {}
    for key, name in dtypes.items():
        values, scale = tensors[f"{prefix}rows/{key}"], tensors.get(f"{prefix}scale/{key}")
        _check(key, values, (*values.shape[:2], values.shape[-1]), values.dtype)
        if scale is not None:
            _check(key, scale, (*values.shape[:2], 1), torch.float32)
        elif values.dtype != _dtype(name):
            raise ValueError(f"{key} is {values.dtype} without a scale, expected {name}")
        rows[key] = CodedRows(values, _dtype(name), scale)
    return rows


def _check(key: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if tuple(tensor.shape) != tuple(shape) or tensor.dtype != dtype:
        raise ValueError(f"{key} is {tensor.dtype} {list(tensor.shape)}, expected {dtype} {list(shape)}")


def _sizes(values: Any) -> list[int]:
    if not isinstance(values, list) or len(values) != 4 or not all(type(value) is int for value in values):
        raise ValueError("its input has no shape of four sizes")
    return values


def _dtypes(rows: dict[str, CodedRows]) -> dict[str, str]:
    return {key: _name(one.dtype) for key, one in rows.items()}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"its rows are {name}, expected floats")
    return dtype


def _save(tensors: dict[str, Tensor], facts: dict[str, Any], path: Path) -> None:
    own = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    with atomic_write(path) as temporary:
        save_file(own, temporary, {"facts": json.dumps(facts)})


def _load(path: Path, device: torch.device, prefix: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
    check_header_length(path)
    with safe_open(path, framework="pt", device=str(device)) as file:
        facts: dict[str, Any] = json.loads(file.metadata()["facts"])
        return {name: file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}, facts  # noqa: SIM118
