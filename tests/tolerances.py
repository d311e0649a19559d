"""The tolerances against the fp64 reference: one table, and the derivation of its numbers.

u is the unit roundoff of the storage dtype: 2^-24 (fp32), 2^-11 (fp16), 2^-8 (bf16). A result is stored once (u) from
values that were stored once (u each, random in sign, so a sum of K products of them errs by about u of its rms); the
largest of some ten thousand elements lies four to five times that out: 8 u. fp32 has no rounding of inputs, but sums
of up to a thousand terms in fp32 arithmetic: sqrt(1000) u for the largest, and a polynomial exponential of 2 u: 64 u.

An element passes when |out - reference| <= tolerance * (|reference| + rms(reference)).
"""

from __future__ import annotations

import torch
from torch import Tensor

TOLERANCE = {
    torch.float32: 64 * 2.0**-24,
    torch.float16: 8 * 2.0**-11,
    torch.bfloat16: 8 * 2.0**-8,
}

# Sums over groups: fp32 within blocks of 64 rows, fp64 beyond, so relative to the sum of magnitudes a few u of fp32.
STATS_TOLERANCE = 8 * 2.0**-24


def assert_close(
    out: Tensor,  # any shape, the storage dtype
    reference: Tensor,  # the same shape, fp64
    dtype: torch.dtype,
) -> None:
    """Fails with the worst element: its place, both values, how many tolerances away."""
    assert out.shape == reference.shape, f"shape {tuple(out.shape)}, expected {tuple(reference.shape)}"
    assert out.isfinite().all(), "not finite"
    if out.numel() == 0:
        return
    reference = reference.double().cpu()
    error = (out.double().cpu() - reference).abs()
    allowed = TOLERANCE[dtype] * (reference.abs() + reference.square().mean().sqrt() + 1e-30)
    worst = int((error / allowed).argmax())
    place = [int(i) for i in torch.unravel_index(torch.tensor(worst), reference.shape)]
    got, want = out.flatten()[worst].item(), reference.flatten()[worst].item()
    ratio = (error / allowed).flatten()[worst].item()
    assert ratio <= 1, f"at {place}: got {got}, expected {want}, {ratio:.1f} times the tolerance of {dtype}"
