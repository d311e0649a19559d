"""What torch's compiler makes of a recorded pass, against the dense one: launches, and the layout of its outputs.

The code is generated, and not built: the kernels are empty, which leaves shapes, strides and calls as they are. One
test builds a small decoder's code and compares values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._inductor.async_compile import AsyncCompile
from torch._inductor.utils import run_and_get_code

import sige
from sige import Recording
from tests.models.call import Call
from tests.models.small import one_level_unet
from tests.models.test_properties import RELATIVE_ERROR, relative_error
from tests.models.tiny import vae

LAUNCH = re.compile(r"^\s+(?:\w+ = )?((?:cpp_fused|extern_kernels|torch\.ops)[\w.]*)\(", re.MULTILINE)


@pytest.fixture(autouse=True)
def no_code_of_other_tests() -> Iterator[None]:
    torch._dynamo.reset()
    with torch._inductor.config.patch(force_disable_caches=True):
        yield
    torch._dynamo.reset()


@dataclass(frozen=True)
class Code:
    """The calls that the generated code makes."""

    launches: list[str]

    @staticmethod
    def of(run: Callable[[], Any]) -> Code:
        _, sources = run_and_get_code(run)
        assert len(sources) == 1, "one graph"
        body = sources[0][sources[0].index("def call(") :]
        return Code(LAUNCH.findall(body))

    @property
    def sums(self) -> int:
        return sum("sige.group_stats" in launch for launch in self.launches)


def test_a_recorded_pass_launches_little_more_than_a_dense_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """More are the sums, a call for each norm, half a kernel for each probe: 78 in place of 59, with 15."""
    monkeypatch.setattr(AsyncCompile, "cpp_pybinding", lambda *_: lambda *_: None)
    call, recording = Call(one_level_unet()), Recording()
    with sige.enable(call.unet) as handle:
        probes = handle.components["unet"].probes()
        norms = sum(probe.groups > 0 for probe in probes)
        with handle.record() as expected:
            call(call.x)
        handle.compile()
        dense = Code.of(lambda: call(call.x))
        with handle.record() as recording:
            recorded = Code.of(lambda: call(call.x))
    assert dense.sums == 0 and recorded.sums == norms
    assert len(dense.launches) <= len(recorded.launches) <= len(dense.launches) + norms + len(probes) // 2
    part, other = recording.components["unet"], expected.components["unet"]
    assert list(part.rows) == list(other.rows) and list(part.stats) == list(other.stats)
    for key, rows in part.rows.items():
        assert (rows.shape, rows.stride()) == (other.rows[key].shape, other.rows[key].stride())


def test_generated_code_leaves_the_same_recording() -> None:
    kinds = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}
    model, z = vae(block_out_channels=(8,), **kinds), torch.randn(1, 4, 8, 8)

    def recorded(handle: sige.Handle) -> tuple[Tensor, Recording]:
        with torch.no_grad(), handle.record() as recording:
            return model.decode(z).sample, recording

    with sige.enable(model) as handle:
        out, expected = recorded(handle)
        handle.compile()
        compiled, found = recorded(handle)
    assert relative_error(compiled, out) <= RELATIVE_ERROR
    part, other = found.components["vae.decoder"], expected.components["vae.decoder"]
    for key, rows in part.rows.items():
        assert relative_error(rows, other.rows[key]) <= RELATIVE_ERROR
    for key, sums in part.stats.items():
        assert relative_error(sums, other.stats[key]) <= RELATIVE_ERROR
