"""Token merging by itself: the matching against a brute-force definition, means, destinations, settings."""

from __future__ import annotations

import doctest
import importlib
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sige import ConfigError
from sige.merging import matching as module
from sige.merging.destinations import Int64Array, destinations, generator
from sige.merging.matching import match
from sige.merging.settings import Merging

SIZE = (6, 5)
POSITIONS = SIZE[0] * SIZE[1]
CHOSEN = destinations(SIZE, 2, 2, generator(481.0, 0))  # nine cells, four of them cut by the border


def random_rows(batch: int = 2, channels: int = 8, seed: int = 0) -> Tensor:  # [B, N, C]
    return torch.randn(batch, POSITIONS, channels, generator=torch.Generator().manual_seed(seed))


def groups_of(rows: Tensor, chosen: Int64Array, count: int) -> list[list[int]]:  # [N, C]
    """The definition: each merged row as the list of positions that it stands for, its destination first."""
    unit = [row / row.norm() for row in rows]
    pairs = []
    for source in sorted(set(range(len(rows))) - set(chosen.tolist())):
        likeness = {int(one): float(unit[source] @ unit[one]) for one in chosen}
        best = max(likeness, key=lambda one: likeness[one])
        pairs.append((likeness[best], source, best))
    pairs.sort(reverse=True)
    stand_for = {int(one): [int(one)] for one in chosen}
    for _, source, best in pairs[:count]:
        stand_for[best].append(source)
    return [*([source] for _, source, _ in pairs[count:]), *stand_for.values()]


@pytest.mark.parametrize("count", [1, 7, 15, POSITIONS - len(CHOSEN)])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_matching_is_the_definition(batch: int, count: int) -> None:
    rows = random_rows(batch)
    found = match(rows, CHOSEN, count)
    merged = found.merge(rows)
    back = found.unmerge(merged)
    assert merged.shape == (batch, POSITIONS - count, rows.shape[2]) and found.merged == POSITIONS - count
    for sample in range(batch):
        groups = groups_of(rows[sample], CHOSEN, count)
        means = torch.stack([rows[sample, group].mean(dim=0) for group in groups])
        torch.testing.assert_close(merged[sample], means)
        for mean, group in zip(means, groups, strict=True):
            torch.testing.assert_close(back[sample, group], mean.expand(len(group), -1))


def test_rows_that_stay_keep_their_bits() -> None:
    rows = random_rows()
    found = match(rows, CHOSEN, 10)
    back = found.unmerge(found.merge(rows))
    alone = [[group[0] for group in groups_of(sample, CHOSEN, 10) if len(group) == 1] for sample in rows]
    assert all(alone)
    for sample, positions in enumerate(alone):
        assert torch.equal(back[sample, positions], rows[sample, positions])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_merge_then_unmerge_of_equal_rows_is_the_identity(dtype: torch.dtype) -> None:
    row = torch.randn(2, 1, 16, generator=torch.Generator().manual_seed(3)).to(dtype)
    rows = row.expand(2, POSITIONS, 16).contiguous()
    found = match(rows, CHOSEN, POSITIONS - len(CHOSEN))
    assert found.merged == len(CHOSEN)
    assert torch.equal(found.unmerge(found.merge(rows)), rows)


def test_each_sample_has_a_matching_of_its_own() -> None:
    rows = random_rows()
    both = match(rows, CHOSEN, 12)
    alone = [match(sample[None], CHOSEN, 12) for sample in rows]
    assert torch.equal(both.merge(rows), torch.cat([one.merge(rows[k : k + 1]) for k, one in enumerate(alone)]))


def test_few_sources_at_a_time_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = random_rows()
    at_once = match(rows, CHOSEN, 12)
    monkeypatch.setattr(module, "MOST_SCORES", 2 * len(CHOSEN) * 4)  # four sources
    in_parts = match(rows, CHOSEN, 12)
    assert torch.equal(in_parts.row_of, at_once.row_of) and torch.equal(in_parts.counts, at_once.counts)


def test_gradients_flow_through_merged_rows() -> None:
    rows = random_rows().requires_grad_()
    found = match(rows, CHOSEN, 15)
    found.unmerge(found.merge(rows)).sum().backward()
    assert rows.grad is not None
    torch.testing.assert_close(rows.grad.sum(), torch.tensor(float(rows.numel())))


# ---- destinations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(4, 4), (6, 5), (1, 1), (3, 7), (2, 9)])
@pytest.mark.parametrize("cell", [(2, 2), (1, 2), (3, 2), (4, 8)])
@pytest.mark.parametrize("random", [False, True])
def test_each_cell_has_one_destination(size: tuple[int, int], cell: tuple[int, int], random: bool) -> None:
    (height, width), (sy, sx) = size, cell
    found = destinations(size, sy, sx, generator(3.0, 1) if random else None)
    cells = [(position // width // sy, position % width // sx) for position in found]
    every = [(y, x) for y in range(-(-height // sy)) for x in range(-(-width // sx))]
    assert cells == every and found.min() >= 0 and found.max() < height * width


def test_destinations_depend_on_timestep_and_block_and_nothing_else() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].tolist()

    def draw(timestep: float, block: int) -> list[int]:
        return destinations((32, 32), 2, 2, generator(timestep, block)).tolist()

    assert draw(481.0, 5) == draw(481.0, 5)
    assert len({tuple(draw(*pair)) for pair in ((481.0, 5), (481.0, 6), (482.0, 5), (481.5, 5))}) == 4
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.random.get_state()[1].tolist() == numpy_state


def test_every_position_of_a_cell_is_drawn_about_equally_often() -> None:
    draws = [destinations((16, 16), 2, 2, generator(float(step), 0)) for step in range(50)]
    within = [2 * (position // 16 % 2) + position % 2 for draw in draws for position in draw]
    shares = np.bincount(within, minlength=4) / len(within)
    assert np.abs(shares - 0.25).max() < 0.03


# ---- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ratio": -0.1}, "ratio: got -0.1, expected a number from 0 to 0.75"),
        ({"ratio": 0.76}, "ratio: got 0.76, expected a number from 0 to 0.75"),
        ({"ratio": 0.6, "sx": 1}, "expected a number from 0 to 0.5: of 2 x 1 rows"),
        ({"ratio": float("nan")}, "ratio: got nan"),
        ({"ratio": "half"}, "ratio: got 'half', expected a number"),
        ({"ratio": True}, "ratio: got True, expected a number"),
        ({"sx": 0}, "sx: got 0, expected a number from 1 to 64"),
        ({"sy": 2.0}, "sy: got 2.0, expected a whole number"),
        ({"sx": 1, "sy": 1}, "sx: got cells of 1 x 1.*take sx=2 or sy=2"),
        ({"max_downsample": 3}, "max_downsample: got 3, expected one of 1, 2, 4, 8"),
        ({"use_rand": 1}, "use_rand: got 1, expected True or False"),
        ({"merge_attn": False}, "merge_attn: off, as merge_crossattn and merge_mlp are"),
    ],
)
def test_wrong_settings_cost_a_sentence(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Merging(**wrong)


def test_every_setting_of_a_merging_has_a_setting_of_the_command_line() -> None:
    from sdxl.commands.fields import Fields

    flags = {item.name for item in fields(Fields)}
    assert {f"tome_{item.name}" for item in fields(Merging)} == {name for name in flags if name.startswith("tome_")}


@pytest.mark.parametrize("name", ["destinations", "settings"])
def test_the_examples(name: str) -> None:
    found = doctest.testmod(importlib.import_module(f"sige.merging.{name}"))
    assert found.attempted and not found.failed
