"""A log of the ops that a packed pass calls, and what among them a GPU would wait for."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

import sige

__all__ = ["Fault", "OpCall", "OpLog", "Operand", "SyncError", "reads_from_python"]

_ITEM = "aten::_local_scalar_dense"  # `.item()`, `float(tensor)`, `if tensor:`
_INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")
_MASKS = (torch.bool, torch.uint8)
_OURS = tuple(str(Path(path).parent) for path in (sige.__file__, diffusers.__file__) if path)  # where places lie


class SyncError(Exception):
    """A pass on fake tensors cannot go on, because an op's result depends on values."""


@dataclass(frozen=True)
class Operand:
    """A tensor that an op reads or returns, without its values."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: str  # cuda, cpu or meta

    @classmethod
    def of(cls, tensor: Tensor) -> Operand:
        return cls(tuple(tensor.shape), tensor.dtype, tensor.device.type)

    @property
    def numel(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes of all elements."""
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True)
class OpCall:
    """One call of an op. Operands stand in the places of tensors."""

    name: str  # sige::gather
    arguments: dict[str, Any]  # by the names of the op's schema, with its defaults
    results: tuple[Operand, ...]
    is_view: bool  # the results lie in the memory of an argument, and nothing is written
    is_pointwise: bool

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    @property
    def operands(self) -> list[Operand]:
        """The tensors among the arguments, those in lists, too."""
        return _operands(self.arguments)

    @property
    def nbytes(self) -> int:
        """The bytes of all arguments and results, each once."""
        return sum(operand.nbytes for operand in (*self.operands, *self.results))


@dataclass(frozen=True)
class Fault:
    """What holds a GPU up, with the lines of code that call it."""

    kind: str  # sync, copy or cpu
    op: str
    place: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.op} at {self.place}"


class OpLog(TorchDispatchMode):
    """Inside `with log:` each op that is called is written down. Enter it inside `fake_cuda()`.

    sync: the host waits for a number of the device, or for a size that depends on values
    copy: an op reads and writes tensors of several devices
    cpu:  an op works on the CPU alone
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[OpCall] = []
        self.faults: list[Fault] = []

    def count(self, kind: str) -> int:
        """The number of faults of the kind."""
        return sum(fault.kind == kind for fault in self.faults)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name
        if reads_from_python(func):
            return func(*args, **kwargs)
        arguments = _by_name(func._schema, args, kwargs)
        if _waits(func, arguments):
            self._add_fault("sync", name)
            if name == _ITEM:
                return _any_number(arguments["self"].dtype)
            raise SyncError(f"{self.faults[-1]}: its result depends on values, so take it out of the pass")
        result = func(*args, **kwargs)
        results = tuple(_operands(_described(result)))
        call = OpCall(name, arguments, results, _is_view(func._schema), torch.Tag.pointwise in func.tags)
        self._check_devices(call)
        self.calls.append(call)
        return result

    def _check_devices(self, call: OpCall) -> None:
        devices = {operand.device for operand in (*call.operands, *call.results)}
        if len(devices) > 1:
            self._add_fault("copy", call.name)
        elif devices == {"cpu"}:
            self._add_fault("cpu", call.name)

    def _add_fault(self, kind: str, op: str) -> None:
        self.faults.append(Fault(kind, op, _place()))


def reads_from_python(func: Any) -> bool:
    """Says whether Python only asks a fake tensor for its device."""
    return bool(func._schema.name.startswith("prim::"))


def _by_name(schema: Any, args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments by the schema's names, with defaults; tensors as operands."""
    named = {argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()}
    named |= {argument.name: value for argument, value in zip(schema.arguments, args, strict=False)}
    return {name: _described(value) for name, value in (named | kwargs).items()}


def _described(value: Any) -> Any:
    """The value with operands in the places of tensors."""
    if isinstance(value, Tensor):
        return Operand.of(value)
    return [_described(one) for one in value] if isinstance(value, list | tuple) else value


def _operands(value: Any) -> list[Operand]:
    return [leaf for leaf in _pytree.tree_leaves(value) if isinstance(leaf, Operand)]


def _waits(func: Any, arguments: dict[str, Any]) -> bool:
    """Says whether the host waits for the device in the call: to read a value, or a size that depends on values."""
    if all(operand.device != "cuda" for operand in _operands(arguments)):
        return False
    if func._schema.name in _INDEXING:
        return any(operand.dtype in _MASKS for operand in _operands(arguments["indices"]))
    return torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags


def _any_number(dtype: torch.dtype) -> bool | int | float:
    """A number in the place of one that a real device would give, so that the pass goes on."""
    return True if dtype == torch.bool else 1.0 if dtype.is_floating_point else 1


def _is_view(schema: Any) -> bool:
    aliases = [result.alias_info for result in schema.returns]
    return bool(aliases) and all(alias is not None and not alias.is_write for alias in aliases)


def _place() -> str:
    """The lines of the engine or of diffusers that called the op, the innermost first."""
    places: list[str] = []
    frame = sys._getframe()
    while frame.f_back is not None and len(places) < 3:
        frame = frame.f_back
        if frame.f_code.co_filename.startswith(_OURS):
            places.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
    return " < ".join(places) or "a place outside the engine"
