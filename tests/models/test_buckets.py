"""Buckets: index tensors padded to a grid of lengths, so that one graph serves regions of about the same size."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import sige
from sige import Region
from sige.models.component import sample_size
from sige.packed.buckets import LEAST, STEPS, bucket
from sige.packed.layout import Layout
from sige.passes import names_read
from tests.models.emulator import Emulator, by_padded_layers
from tests.models.state import fresh
from tests.models.test_programs import Weights, attachment, every_blend, layer_by_layer, record
from tests.models.tiny import Case, every_case

every_unet = pytest.mark.parametrize("case", ["sdxl-base", "sdxl-refiner", "sdxl-inpainting", "sd15", "sd21"])


def holed(case: Case, holes: int) -> Region:
    """A rectangle with some holes of one position each."""
    region = case.rectangle(1, 2, 9, 9)
    for hole in range(holes):
        region = region - case.rectangle(5, 3 + 2 * hole, 1, 1)
    return region


@every_unet
def test_one_graph_serves_regions_of_about_the_same_size(
    case: str, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = fresh(case)
    x = made.input(9)
    with sige.enable(made.model) as handle:
        record(made, handle, (1,))
        # What all levels ask for differs among these regions; padded, less of it does.
        regions = [holed(made, holes) for holes in (2, 2, 2, 2, 3, 4)]

        def edit(region: Region) -> Tensor:
            with handle.edit(region):
                return made.call(x)

        got = [edit(region) for region in regions]
        graphs = attachment(made).programs.graphs
        names = names_read(attachment(made).component(), sample_size(x))
        expected = [by_padded_layers(monkeypatch, lambda region=region: edit(region)) for region in regions]  # type: ignore[misc]
    plain, padded = (
        {tuple(Layout(region, x.device).read(replace(name, padded=pads)).shape for name in names) for region in regions}
        for pads in (False, True)
    )
    assert len(plain) > 1
    assert len(padded) < len(plain)
    assert 1 <= len(graphs) <= len(padded)
    assert emulator.replayed > emulator.captured
    assert all(map(torch.equal, got, expected))


@every_case
@every_blend
def test_padding_changes_no_bit(case: str, weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own products do not depend on the number of rows. The platform's may: MKL's do on Intel."""
    monkeypatch.setenv("SIGE_PRODUCT", "own")
    made = fresh(case)
    x, region = made.input(9), holed(made, 3)
    with sige.enable(made.model) as handle:
        terms = list(zip(record(made, handle, (1, 2, 3)), weights, strict=False))

        def edit() -> Tensor:
            with handle.edit(region, blend=terms):
                return made.call(x)

        plain = layer_by_layer(monkeypatch, edit)
        assert torch.equal(by_padded_layers(monkeypatch, edit), plain)


def test_lengths_of_the_grid_are_near_and_few() -> None:
    lengths = [bucket(count) for count in range(5000)]
    assert all(0 <= length - count <= max(count / STEPS, LEAST - 1) for count, length in enumerate(lengths))
    assert lengths == sorted(lengths)
    assert len(set(lengths)) < 70
    assert [bucket(length) for length in lengths] == lengths
