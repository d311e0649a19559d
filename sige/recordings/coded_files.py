"""Coded recordings and patches as safetensors files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from sige.files import atomic_write
from sige.recordings.coded import Coded, CodedPatch, CodedRows

__all__ = ["load_coded", "load_patch", "save_coded", "save_patches"]


def save_coded(coded: Coded, path: Path) -> None:
    """Writes a recording; the file appears whole or not at all."""
    tensors = _rows_of(coded.rows, "") | {f"stats/{key}": stats for key, stats in coded.stats.items()}
    facts = {"code": coded.code, "input": list(coded.input.shape), "dtype": _name(coded.input.dtype)}
    _save(tensors | {"output": coded.output}, facts | {"rows": _dtypes(coded.rows)}, path)


def load_coded(path: Path, device: torch.device) -> Coded:
    """A recording that `save_coded` wrote."""
    tensors, facts = _load(path, device)
    shape = torch.empty(facts["input"], dtype=getattr(torch, facts["dtype"]), device="meta")
    stats = {name.removeprefix("stats/"): one for name, one in tensors.items() if name.startswith("stats/")}
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
    """One of the patches in a file; None where it holds none of that name."""
    tensors, facts = _load(path, device, f"{name}/")
    if name not in facts:
        return None
    index = {count: tensors[f"{name}/index/{count}"] for count in facts[name]["index"]}
    return CodedPatch(index, _rows(tensors, facts[name]["rows"], f"{name}/"), tensors[f"{name}/output"])


def _rows_of(rows: dict[str, CodedRows], prefix: str) -> dict[str, Tensor]:
    tensors = {f"{prefix}rows/{key}": one.values for key, one in rows.items()}
    return tensors | {f"{prefix}scale/{key}": one.scale for key, one in rows.items() if one.scale is not None}


def _rows(tensors: dict[str, Tensor], dtypes: dict[str, str], prefix: str) -> dict[str, CodedRows]:
    return {
        key: CodedRows(tensors[f"{prefix}rows/{key}"], getattr(torch, name), tensors.get(f"{prefix}scale/{key}"))
        for key, name in dtypes.items()
    }


def _dtypes(rows: dict[str, CodedRows]) -> dict[str, str]:
    return {key: _name(one.dtype) for key, one in rows.items()}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _save(tensors: dict[str, Tensor], facts: dict[str, Any], path: Path) -> None:
    own = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    with atomic_write(path) as temporary:
        save_file(own, temporary, {"facts": json.dumps(facts)})


def _load(path: Path, device: torch.device, prefix: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(path, framework="pt", device=str(device)) as file:
        facts: dict[str, Any] = json.loads(file.metadata()["facts"])
        return {name: file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}, facts  # noqa: SIM118
