"""The programs of one component: which pass runs as a program, and why another does not."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor, nn

from sige.packed.features import PackedPass
from sige.programs.arguments import as_tensors, shape_of
from sige.programs.program import Packed, Program, traced
from sige.programs.trace import TraceError

__all__ = ["Programs"]

MOST = 8  # programs of a component
logger = logging.getLogger(__name__)


class Programs:
    """Runs packed passes. One that comes a second time is traced, and from then on runs as a program."""

    def __init__(self) -> None:
        self.why_not = ""  # the reason of the last pass that could not be traced
        self._kept: OrderedDict[Hashable, list[Program] | None] = OrderedDict()  # None: seen once

    def clear(self) -> None:
        """Forgets every program: weights or modules have changed."""
        self._kept.clear()
        self.why_not = ""

    def run(self, packed: Packed, module: nn.Module, arguments: dict[str, Any], packed_pass: PackedPass) -> Tensor:
        """The output [B, N, C_out] of the packed pass: by a program, if there can be one, and else by the layers."""
        if not _wanted(arguments["sample"]) or self.why_not:
            return packed(arguments, packed_pass)
        arguments = as_tensors(arguments)
        key = _key(arguments, packed_pass)
        if key not in self._kept:
            self._keep(key, None)
            return packed(arguments, packed_pass)
        found = self._kept[key] or []
        self._kept.move_to_end(key)
        for program in found:
            if program.fits(packed_pass.layout):
                return program.run(arguments, packed_pass)
        try:
            output, program = traced(packed, module, arguments, packed_pass)
        except TraceError as error:
            self.why_not = str(error)
            logger.debug("packed passes of this model run layer by layer: %s", error)
            return packed(arguments, packed_pass)
        self._keep(key, [program, *found][:MOST])
        return output

    def _keep(self, key: Hashable, programs: list[Program] | None) -> None:
        self._kept[key] = programs
        while len(self._kept) > MOST:
            self._kept.popitem(last=False)

    @property
    def programs(self) -> list[Program]:
        """The programs that are kept."""
        return [program for some in self._kept.values() for program in some or []]


def _wanted(sample: Tensor) -> bool:
    """Says whether passes may run as programs: on real tensors, unless SIGE_PROGRAMS=0."""
    return os.environ.get("SIGE_PROGRAMS", "1") != "0" and type(sample) is Tensor and sample.device.type != "meta"


def _key(arguments: dict[str, Any], packed_pass: PackedPass) -> Hashable:
    """What two passes have in common that may run the same program; index tensors are compared by the program."""
    recorded = packed_pass.recorded
    inference = torch.is_inference_mode_enabled()
    kinds = packed_pass.exact_statistics, packed_pass.kept is not None, recorded.is_one, inference
    return shape_of(arguments), len(recorded.terms), kinds
