"""Wide heads: two products and a softmax against the definition, the memory of the scores, programs and graphs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import sige
from sige.packed import wide_attention as module
from sige.packed.wide_attention import wide_attention
from tests.models import devices
from tests.models.devices import every_device
from tests.models.emulator import Emulator, by_padded_layers
from tests.models.test_programs import attachment, layer_by_layer, record
from tests.models.tiny import Case, new_case
from tests.tolerances import assert_close

Rows = tuple[Tensor, Tensor, Tensor]
sixteen_bits = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)


def sample(
    dtype: torch.dtype, batch: int = 1, heads: int = 1, queries: int = 37, keys: int = 150, size: int = 512
) -> Rows:  # [B, Hd, N, D], [B, Hd, L, D] twice
    """Views of rows [B, N, Hd * D], as a layer has them."""

    def rows(count: int) -> Tensor:  # [B, Hd, count, D]
        made = torch.randn(batch, count, heads * size).to(devices.current(), dtype)
        return made.unflatten(2, (heads, -1)).transpose(1, 2)

    return rows(queries), rows(keys), rows(keys)


def definition(query: Tensor, key: Tensor, value: Tensor) -> Tensor:  # [B, Hd, N, D], [B, Hd, L, D] twice
    """Attention in fp64."""
    query, key, value = query.double(), key.double(), value.double()
    scores = query @ key.transpose(2, 3) * query.shape[3] ** -0.5  # [B, Hd, N, L]
    return scores.softmax(-1) @ value


class Scores(TorchDispatchMode):
    """Inside, the bytes of each softmax's input are written down."""

    def __init__(self) -> None:
        super().__init__()
        self.nbytes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._softmax.default:
            self.nbytes.append(args[0].nbytes)
        return func(*args, **(kwargs or {}))


# ---- the result -----------------------------------------------------------------------------------------------------


@every_device
@sixteen_bits
@pytest.mark.parametrize(("batch", "heads", "size"), [(1, 1, 512), (2, 1, 512), (1, 3, 264), (2, 3, 320)])
def test_it_is_attention(batch: int, heads: int, size: int, dtype: torch.dtype) -> None:
    rows = sample(dtype, batch, heads, size=size)
    out = wide_attention(*rows)
    assert out.dtype == dtype
    assert_close(out, definition(*rows), dtype)


@every_device
@sixteen_bits
def test_scores_of_16_bits_would_not_do(dtype: torch.dtype) -> None:
    """A score of 50 is rounded by up to 0.02 in fp16 and 0.1 in bf16, and its weight errs by that share."""
    query, key, value = sample(dtype)
    query = query * 16  # exact; scores have a spread of 16
    reference = definition(query, key, value)
    assert_close(wide_attention(query, key, value), reference, dtype)

    scores = (query.float() @ key.float().transpose(2, 3)).mul(query.shape[3] ** -0.5).to(dtype)  # [B, Hd, N, L]
    rounded = (scores.float().softmax(-1) @ value.float()).to(dtype)  # [B, Hd, N, D]
    with pytest.raises(AssertionError, match="times the tolerance"):
        assert_close(rounded, reference, dtype)


@every_device
@sixteen_bits
def test_a_weight_for_each_of_the_vaes_keys_is_not_too_small_for_fp16(dtype: torch.dtype) -> None:
    """Equal weights of 16384 keys are 6e-5, where fp16 begins to lose bits."""
    query, key, value = sample(dtype, queries=5, keys=16384)
    query = query / 64
    assert_close(wide_attention(query, key, value), definition(query, key, value), dtype)


@every_device
@sixteen_bits
def test_chunks_of_queries_keep_the_scores_small(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four queries of each of six heads fit: ten come in chunks of four, four and two."""
    rows = sample(dtype, batch=2, heads=3, queries=10, keys=50, size=264)
    query_bytes = 4 * 6 * 50
    monkeypatch.setattr(module, "MOST_SCORE_BYTES", 5 * query_bytes - 1)
    with Scores() as scores:
        out = wide_attention(*rows)
    assert scores.nbytes == [4 * query_bytes, 4 * query_bytes, 2 * query_bytes]
    assert_close(out, definition(*rows), dtype)

    monkeypatch.setattr(module, "MOST_SCORE_BYTES", 1)  # less than one query takes
    with Scores() as scores:
        out = wide_attention(*rows)
    assert scores.nbytes == 10 * [query_bytes]
    assert_close(out, definition(*rows), dtype)


def test_no_queries_are_no_rows() -> None:
    assert wide_attention(*sample(torch.bfloat16, queries=0)).shape == (1, 1, 0, 512)


# ---- in a packed pass -----------------------------------------------------------------------------------------------


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every head takes the way of wide heads on CUDA."""
    monkeypatch.setattr("sige.packed.attention.suits_op", lambda *_: False)
    monkeypatch.setattr("sige.packed.attention.is_wide", lambda *_: True)


def passes(made: Case, handle: sige.Handle, seeds: tuple[int, ...]) -> list[Tensor]:
    """Packed passes of one region, one for each seed."""
    (recording,) = record(made, handle, (1,), batch=2)
    with handle.edit(made.rectangle(2, 3, 3, 3), blend=[(recording, 1.0)]):
        return [made.call(made.input(seed, 2)) for seed in seeds]


@every_device
@pytest.mark.parametrize("name", ["vae-decoder", "vae-encoder"])
@sixteen_bits
def test_a_packed_vae_takes_it_in_place_of_sdpa(
    name: str, dtype: torch.dtype, wide: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = new_case(name, dtype, device=devices.current())
    monkeypatch.setenv("SIGE_PROGRAMS", "0")
    outs, softmaxes = [], []
    with sige.enable(made.model) as handle:
        for choice in ("platform", "own"):
            monkeypatch.setenv("SIGE_ATTENTION", choice)
            with Scores() as scores:
                outs += passes(made, handle, (4,))
            softmaxes.append(len(scores.nbytes))
    assert softmaxes == [0, 1]
    assert_close(outs[1], outs[0].double(), dtype)


def test_programs_and_graphs_return_what_the_layers_return_bit_for_bit(
    wide: None, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = new_case("vae-decoder", torch.bfloat16)
    monkeypatch.setattr(module, "MOST_SCORE_BYTES", 4 * 2 * 64 * 4)  # four queries over 64 keys, in a batch of two
    seeds = (4, 5, 6, 7)
    with sige.enable(made.model) as handle:
        layers = layer_by_layer(monkeypatch, lambda: torch.stack(passes(made, handle, seeds)))
        padded = by_padded_layers(monkeypatch, lambda: torch.stack(passes(made, handle, seeds)))
        got = torch.stack(passes(made, handle, seeds))
        programs = attachment(made).programs
        assert len(programs.graphs) == 1, programs.why_no_graph
        source = programs.programs[0].source
    assert source.count("aten::bmm") > 2 and "scaled_dot_product" not in source
    assert emulator.replayed > 0
    assert torch.equal(got[1:], padded[1:])
    assert_close(got, layers.double(), torch.bfloat16)
