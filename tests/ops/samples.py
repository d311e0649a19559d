"""Sample inputs of each op, for all of its tests: parity, fakes, opcheck, torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sige.ops.registry import OPS

Arguments = tuple[object, ...]


def sample_inputs(name: str, device: str, dtype: torch.dtype) -> list[Arguments]:
    """Argument tuples in the order of the op's schema: small, odd, empty, with and without the optional ones."""
    torch.manual_seed(len(name))
    samples = _SAMPLES[name](dtype)
    return [tuple(on_tensors(lambda x: x.to(device), value) for value in arguments) for arguments in samples]


def as_fp64(arguments: Arguments) -> Arguments:
    """The same values for the reference: floating-point tensors in fp64, on the CPU."""

    def widen(value: Tensor) -> Tensor:
        return value.cpu().double() if value.is_floating_point() else value.cpu()

    return tuple(on_tensors(widen, value) for value in arguments)


def reference(name: str, arguments: Arguments) -> tuple[Tensor, ...]:
    """The output of the definition in fp64; for an op that writes, the tensor that it wrote."""
    arguments = as_fp64(arguments)
    if name == "scatter":
        dense = arguments[0].clone(memory_format=torch.preserve_format)  # type: ignore[attr-defined]
        OPS[name].reference(dense, *arguments[1:])
        return (dense,)
    out = OPS[name].reference(*arguments)
    return (out,) if isinstance(out, Tensor) else out


def on_tensors(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """An argument with its tensors changed: a tensor, a list of them, or neither."""
    if isinstance(value, list):
        return [on_tensors(change, entry) for entry in value]
    return change(value) if isinstance(value, Tensor) else value


def _index(shape: tuple[int, ...], low: int, high: int) -> Tensor:
    return torch.randint(low, high, shape, dtype=torch.int32) if high > low else torch.empty(0, *shape[1:]).int()


def _gather_samples(dtype: torch.dtype) -> list[Arguments]:
    samples: list[Arguments] = []
    for batch, packed, recorded, rows, taps, channels, activation in (
        (2, 7, 9, 5, 9, 20, 1),
        (1, 1, 0, 1, 1, 8, 0),
        (1, 6, 40, 33, 9, 64, 1),
        (2, 0, 5, 4, 9, 3, 0),
        (2, 3, 2, 0, 9, 16, 1),
        (1, 5, 4, 6, 4, 1, 0),
        (2, 70, 130, 65, 9, 40, 0),
        (2, 9, 20, 25, 9, 352, 1),  # more than one block of K for row_product
    ):
        rows_in = torch.randn(batch, packed, channels).to(dtype), torch.randn(batch, recorded, channels).to(dtype)
        index = _index((rows, taps), -1, packed + recorded)
        scale, shift = torch.randn(batch, channels), torch.randn(batch, channels)
        samples.append((*rows_in, index, scale, shift, activation))
        samples.append((*rows_in, index, None, None, activation))
    return samples


def _sparse_conv2d_samples(dtype: torch.dtype) -> list[Arguments]:
    samples: list[Arguments] = []
    for i, (packed, recorded, index, scale, shift, activation) in enumerate(_gather_samples(dtype)):
        batch, rows, taps, channels = packed.shape[0], *index.shape, packed.shape[2]  # type: ignore[attr-defined]
        out_channels = (12, 8, 7, 64)[i % 4]
        weight = (torch.randn(out_channels, taps * channels) * (taps * channels) ** -0.5).to(dtype)
        bias = torch.randn(out_channels).to(dtype) if i % 4 < 2 else None
        residual = torch.randn(batch, rows, out_channels).to(dtype) if i % 3 < 2 else None
        rest = (scale, shift, activation, residual, (0, 3, 1000)[i % 3])
        samples.append((packed, recorded, index, weight, bias, *rest))
        if i % 2:
            of_samples = torch.randn(batch, out_channels + 24).to(dtype)[:, 16 : out_channels + 16]  # rows lie apart
            samples.append((packed, recorded, index, weight, of_samples, *rest))
    return samples


def _linear_samples(dtype: torch.dtype) -> list[Arguments]:
    samples: list[Arguments] = []
    for batch, rows, channels, out_channels in (
        (2, 7, 32, 12),
        (1, 1, 20, 7),
        (2, 0, 16, 8),
        (1, 33, 48, 4),
        (2, 61, 3000, 20),  # more than one block of K and of rows
        (1, 600, 16, 8),
        (2, 5, 16, 0),
    ):
        weight = (torch.randn(out_channels, channels) * channels**-0.5).to(dtype)
        inputs = torch.randn(batch, rows, channels).to(dtype)
        bias, residual = torch.randn(out_channels).to(dtype), torch.randn(batch, rows, out_channels).to(dtype)
        samples += [(inputs, weight, bias, residual), (inputs, weight, bias, None), (inputs, weight, None, residual)]
        samples.append((inputs, weight, None, None))
    return samples


def _linear_stack_samples(dtype: torch.dtype) -> list[Arguments]:
    samples: list[Arguments] = []
    for layers, batch, rows, channels, out_channels in (
        (3, 2, 7, 32, 12),
        (1, 1, 1, 20, 7),
        (2, 2, 0, 16, 8),
        (3, 2, 61, 64, 72),  # on CUDA a tile ends within a layer
        (4, 1, 5, 1600, 136),
        (2, 1, 600, 16, 8),
        (2, 2, 5, 16, 0),
    ):
        inputs = torch.randn(batch, rows, channels).to(dtype)
        weights = [(torch.randn(out_channels, channels) * channels**-0.5).to(dtype) for _ in range(layers)]
        biases = [torch.randn(out_channels).to(dtype) for _ in range(layers)]
        samples += [(inputs, weights, biases), (inputs, weights, [])]
    return samples


def _geglu_rows_samples(dtype: torch.dtype) -> list[Arguments]:
    shapes = ((2, 7, 40), (1, 1, 2), (2, 0, 16), (1, 33, 600), (1, 3, 0))
    return [((torch.randn(shape) * 3).to(dtype),) for shape in shapes]


def _time_table_samples(dtype: torch.dtype) -> list[Arguments]:
    samples: list[Arguments] = []
    for batch, size, channels in (
        (2, 20, (5, 1, 9)),
        (1, 64, (40,)),
        (3, 16, (0, 3)),
        (0, 8, (2,)),
        (2, 300, (8,) * 17),
    ):
        weights = [(torch.randn(c, size) * size**-0.5).to(dtype) for c in channels]
        biases, added = ([torch.randn(c).to(dtype) for c in channels] for _ in range(2))
        samples.append((torch.randn(batch, size).to(dtype), weights, biases, added))
    return samples


def _scatter_samples(dtype: torch.dtype) -> list[Arguments]:
    samples: list[Arguments] = []
    for batch, channels, height, width, rows in ((2, 4, 5, 7, 12), (1, 3, 1, 1, 1), (2, 40, 6, 3, 18), (1, 8, 4, 4, 0)):
        index = torch.randperm(height * width)[:rows].int()
        packed, residual = (torch.randn(batch, rows, channels).to(dtype) for _ in range(2))
        dense = torch.randn(batch, channels, height, width).to(dtype)
        samples.append((dense, packed, index, None))
        samples.append((dense.to(memory_format=torch.channels_last), packed, index, residual))
        wider = torch.randn(batch, channels + 1, height, width + 2).to(dtype)
        samples.append((wider[:, 1:, :, 1:-1], packed, index, residual))  # a view with gaps
    return samples


def _group_stats_samples(dtype: torch.dtype) -> list[Arguments]:
    return [
        (torch.randn(batch, rows, channels).add(mean).to(dtype), groups)
        for batch, rows, channels, groups, mean in (
            (2, 200, 64, 32, 0.0),
            (1, 1, 8, 2, 3.0),
            (2, 65, 21, 7, -1.0),
            (1, 0, 16, 4, 0.0),
            (1, 64, 20, 1, 10.0),
            (1, 1100, 8, 2, 0.5),  # more blocks of rows than threads that share the adding of one number
        )
    ]


def _update_group_stats_samples(dtype: torch.dtype) -> list[Arguments]:
    samples: list[Arguments] = []
    for batch, recorded_rows, rows, channels, groups in (
        (2, 200, 70, 64, 32),
        (1, 1, 1, 8, 2),
        (2, 65, 0, 21, 7),
        (1, 130, 130, 20, 1),
        (1, 1200, 1100, 8, 2),
    ):
        recorded = torch.randn(batch, recorded_rows, channels).to(dtype)
        packed = torch.randn(batch, rows, channels).add(0.5).to(dtype)
        index = torch.randperm(recorded_rows)[:rows].sort().values.int()
        stats = OPS["group_stats"].reference(recorded.double(), groups)
        samples.append((stats, recorded, index, packed))
        samples.append((stats, recorded, index.where(torch.arange(rows) % 3 > 0, -1), packed))  # some rows do not count
        samples.append((stats, recorded[:, index.long()].contiguous(), None, packed))
    return samples


def _terms(weights: list[float], shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    """The recorded rows of a blend. Those of weight 0 must not be read, or must be left out: they are NaN."""
    return [torch.randn(shape).to(dtype) if weight else torch.full(shape, torch.nan, dtype=dtype) for weight in weights]


def _blend_rows_samples(dtype: torch.dtype) -> list[Arguments]:
    samples: list[Arguments] = []
    for batch, recorded, rows, channels, weights in (
        (2, 200, 70, 64, [3.0, -3.0, 1.0]),
        (1, 1, 1, 8, [2.0]),
        (2, 65, 0, 21, [1.5, -0.5]),
        (1, 5, 30, 3, [0.125] * 8),  # rows that are read more than once
        (2, 0, 0, 16, [1.0]),
        (1, 300, 290, 280, [0.25, 0.75]),
        (2, 90, 40, 24, [0.0, 2.0, -1.0]),
        (1, 6, 7, 16, [0.0] * 7 + [1.0]),
        (1, 6, 4, 16, [0.0, 0.0]),
    ):
        terms = _terms(weights, (batch, recorded, channels), dtype)
        factors = torch.tensor(weights).double()
        samples.append((terms, factors, _index((rows,), 0, recorded)))
        samples.append((terms, factors, None))
    return samples


def _norm_affine_samples(dtype: torch.dtype) -> list[Arguments]:
    samples: list[Arguments] = []
    for batch, recorded_rows, rows, channels, groups, blend in (
        (2, 200, 70, 64, 32, [3.0, -3.0, 1.0]),
        (1, 40, 1, 8, 2, [1.0]),
        (2, 65, 0, 21, 7, [1.5, -0.5]),
        (1, 130, 130, 20, 1, [0.125] * 8),
        (1, 9, 4, 300, 3, [1.0 + 1e-7]),
        (2, 90, 40, 24, 4, [0.0, 1.0, 0.0]),
        (1, 90, 40, 24, 4, [1.5, 0.0, -0.5]),
        (2, 9, 5, 32, 2, [0.0] * 7 + [2.0]),
        (1, 4300, 4200, 8, 2, [0.75, 0.25]),  # more blocks of rows than a CUDA block has threads that add them
    ):
        recorded = _terms(blend, (batch, recorded_rows, channels), dtype)
        stats = [OPS["group_stats"].reference(term.double(), groups) for term in recorded]
        packed = torch.randn(batch, rows, channels).add(0.5).to(dtype)
        index = torch.randperm(recorded_rows)[:rows].sort().values.int()
        index[::3] = -1  # rows that do not count
        weight, bias = torch.randn(2, channels).unbind()
        blend = torch.tensor(blend).double()
        samples.append((stats, recorded, blend, index, packed, weight.to(dtype), bias.to(dtype), 1e-5))
        samples.append((stats, recorded, blend, index, packed, weight, None, 1e-6))
        samples.append((stats, recorded, blend, index, packed, None, bias, 1e-6))
    return samples + _constant_norm_samples(dtype)


def _constant_norm_samples(dtype: torch.dtype) -> list[Arguments]:
    """Groups without any variance, alone and in a forecast."""
    rows = torch.full((1, 6, 8), 3.0).to(dtype)
    stats, index = OPS["group_stats"].reference(rows.double(), 2), torch.tensor([4], dtype=torch.int32)
    packed = rows[:, :1]
    return [
        ([stats] * len(blend), [rows] * len(blend), torch.tensor(blend).double(), index, packed, None, None, 1e-5)
        for blend in ([1.0], [2.0, -1.0])
    ]


def _block_attention_samples(dtype: torch.dtype) -> list[Arguments]:
    samples: list[Arguments] = []
    for batch, queries, keys, fresh, recorded, heads, size in (
        (2, 70, 200, 70, 200, 3, 40),
        (1, 1, 1, 1, 0, 1, 8),
        (1, 33, 130, 5, 128, 2, 64),
        (2, 3, 64, 0, 64, 1, 5),
        (1, 64, 65, 64, 64, 1, 160),
        (1, 9, 0, 2, 2, 2, 16),
        (2, 0, 8, 4, 4, 2, 16),
        (1, 20, 70, 20, 60, 1, 512),
    ):
        query = torch.randn(batch, queries, heads * size).to(dtype)
        key, value = (torch.randn(batch, fresh, heads * size).to(dtype) for _ in range(2))
        recorded_key, recorded_value = (torch.randn(batch, recorded, heads * size).to(dtype) for _ in range(2))
        index = _index((keys,), -1, fresh + recorded)
        mask = torch.rand(-(-queries // 64), -(-keys // 64)) > 0.4
        rows = (query, key, value, recorded_key, recorded_value, index, heads)
        samples.append((*rows, None, size**-0.5))
        samples.append((*rows, mask, 1.5 * size**-0.5))
    return samples


_SAMPLES = {
    "gather": _gather_samples,
    "sparse_conv2d": _sparse_conv2d_samples,
    "linear": _linear_samples,
    "linear_stack": _linear_stack_samples,
    "geglu_rows": _geglu_rows_samples,
    "time_table": _time_table_samples,
    "scatter": _scatter_samples,
    "group_stats": _group_stats_samples,
    "update_group_stats": _update_group_stats_samples,
    "blend_rows": _blend_rows_samples,
    "norm_affine": _norm_affine_samples,
    "block_attention": _block_attention_samples,
}
