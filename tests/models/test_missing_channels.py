"""A convolution of few outputs gets channels of zeros on CUDA, which its caller never sees."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import sige
from benchmarks.fake_cuda import GuardError, fake_cuda
from sige.packed.conv import missing_channels
from tests.models.call import REGION, Call
from tests.models.test_properties import RELATIVE_ERROR, relative_error
from tests.models.tiny import sd15


def on_every_device(weight: Tensor, residual: Tensor | None) -> int:
    return -weight.shape[0] % 8 if residual is None else 0


@pytest.mark.parametrize(
    ("shape", "dtype", "residual", "missing"),
    [
        ((3, 1152), torch.bfloat16, False, 5),  # the last one of a decoder
        ((4, 2880), torch.float16, False, 4),  # of a UNet
        ((4, 2880), torch.float16, True, 0),
        ((4, 2880), torch.float32, False, 0),  # row_product takes 16 bits
        ((320, 2880), torch.float16, False, 0),
        ((4, 36), torch.float16, False, 0),  # nor does it take four inputs
    ],
)
def test_only_products_that_gain_from_it_get_channels(
    shape: tuple[int, int], dtype: torch.dtype, residual: bool, missing: int
) -> None:
    weight = torch.empty(shape, dtype=dtype)
    added = torch.empty(1, 2, shape[0], dtype=dtype) if residual else None
    assert missing_channels(weight, added) == 0
    try:
        with fake_cuda():
            assert missing_channels(torch.empty(shape, dtype=dtype, device="cuda:0"), added) == missing
    except GuardError as error:
        pytest.skip(str(error))


def test_the_output_stays_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sige.packed.conv.missing_channels", on_every_device)
    assert Call(sd15()).packed_error() <= RELATIVE_ERROR


def test_programs_pad_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sige.packed.conv.missing_channels", on_every_device)
    monkeypatch.setenv("SIGE_PROGRAMS", "1")
    call = Call(sd15())
    dense = call(call.edited)
    with sige.enable(call.unet) as handle:
        with handle.record():
            call(call.x)
        with handle.edit(REGION):
            outputs = [call(call.edited) for _ in range(3)]
    assert torch.equal(outputs[0], outputs[2])
    assert relative_error(outputs[2], dense) <= RELATIVE_ERROR
