"""What a compiled recorded pass costs more than a compiled dense one, as bounds, by count: launches and bytes.

    python -m benchmarks.recorded_cost [--model sdxl-base] [--size 1024]

The dense pass runs on fake CUDA tensors. Counted of it is only what no compiler can leave out: products, convolutions,
attention and concatenations as they are, a kernel for each norm, and one for each GEGLU. All other pointwise ops count
as fused, and cost nothing. Counted of the recording is the most that it can cost: each row that is not the output of a
linear layer is written once more, and each norm's rows are read once more for their sums. So the true shares lie
below those that are printed, unless fused kernels are taken apart. Nothing here is measured.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

import sige
from benchmarks.fake_cuda import build_fake, fake_cuda
from benchmarks.harness import Row, print_table
from benchmarks.op_log import OpCall, OpLog
from sige.recordings import Probe

__all__ = ["Cost", "cost_of_dense", "cost_of_recording", "main"]

WORTH = {  # op -> its bytes, in bytes of its arguments and results
    "aten::_scaled_dot_product_efficient_attention": 1.0,
    "aten::_scaled_dot_product_flash_attention": 1.0,
    "aten::addmm": 1.0,
    "aten::bmm": 1.0,
    "aten::cat": 1.0,
    "aten::convolution": 1.0,
    "aten::gelu": 1.5,  # it reads and writes a half; the fused GEGLU reads both halves and writes one
    "aten::mm": 1.0,
    "aten::native_group_norm": 1.0,
    "aten::native_layer_norm": 1.0,
}


@dataclass(frozen=True)
class Cost:
    """Launches of kernels, and the bytes that they read and write."""

    launches: int
    nbytes: int

    def share(self, of: Cost) -> tuple[float, float]:
        """This cost as a share of another: of its launches, of its bytes."""
        return self.launches / of.launches, self.nbytes / of.nbytes


def cost_of_dense(calls: Sequence[OpCall]) -> Cost:
    """The least that a compiled dense pass costs."""
    counted = [call for call in calls if call.name in WORTH]
    return Cost(len(counted), sum(int(WORTH[call.name] * call.nbytes) for call in counted))


def cost_of_recording(probes: Sequence[Probe], rows: Mapping[str, torch.Tensor]) -> Cost:
    """The most that a recording adds: rows that are written again, and sums of rows that are read again."""
    norms = [probe for probe in probes if probe.groups]
    written = sum(rows[probe.key].nbytes for probe in probes if not _is_stored(probe))
    read = sum(rows[probe.key].nbytes for probe in norms)
    return Cost(len(norms), written + read)  # group_stats is one launch


def _is_stored(probe: Probe) -> bool:
    """Says whether any dense pass writes these very rows: the library's product does."""
    return probe.of == "output" and isinstance(probe.module, nn.Linear) and probe.restore is None


def costs(model: str, size: tuple[int, int], dtype: torch.dtype = torch.bfloat16) -> tuple[Cost, Cost]:
    """The costs of a dense pass, and of recording it."""
    with fake_cuda(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")  # a recording compares two
        subject = build_fake(model, size, dtype)
        with OpLog() as log:
            subject()
        with sige.enable(subject.target) as handle:
            with handle.record() as recording:
                subject()
            ((name, part),) = recording.components.items()
            return cost_of_dense(log.calls), cost_of_recording(handle.components[name].probes(), part.rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recorded_cost", description=__doc__)
    parser.add_argument("--model", default="sdxl-base", help="a model of sige.profiling")
    parser.add_argument("--size", type=int, default=1024, help="side of the picture")
    options = parser.parse_args(arguments)
    dense, more = costs(options.model, (options.size, options.size))
    launches, nbytes = more.share(dense)
    rows: list[Row] = [
        {"pass": "dense, at least", "launches": dense.launches, "GB": dense.nbytes / 1e9},
        {"pass": "recording adds, at most", "launches": more.launches, "GB": more.nbytes / 1e9},
        {"pass": "share in percent", "launches": 100 * launches, "GB": 100 * nbytes},
    ]
    print_table(rows)


if __name__ == "__main__":
    main()
