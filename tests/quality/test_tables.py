"""From scores to tables and to the pictures that are shown."""

from __future__ import annotations

import pytest

from benchmarks.quality.edits import held_out_edits
from benchmarks.quality.pictures import chosen
from benchmarks.quality.results import Results, Score, Settings
from benchmarks.quality.table import by_class, overview, summarise

SIDE = 64


def score(number: int, psnr: float) -> Score:
    return Score(number, psnr, 0.9, psnr + 3, 0.95, number != 0, 0.1 * (number + 1), 2.0, 4.0)


def test_a_summary_is_medians_and_a_tenth_percentile() -> None:
    found = summarise(score(i, 20.0 + i) for i in range(11))
    assert found is not None and (found.psnr, found.psnr_low, found.time) == (25.0, 21.0, 0.5)
    assert found.equal_outside == pytest.approx(10 / 11) and found.work == pytest.approx(0.6)
    assert summarise([]) is None


def test_tables_put_each_edit_into_its_class() -> None:
    edits = held_out_edits(10, SIDE)
    results = Results(Settings("w", "0", 10, "0", SIDE, 30, 4.0, "ddim"), edits)
    results.rows["a"] = [score(edit.number, 100 * edit.share) for edit in edits]
    line, classes = overview(results, ["a"])[0], by_class(results, ["a"])[0]
    assert line["equal outside"] == "90%" and 7 <= float(line["PSNR at 10 %"]) <= 13
    assert 2 <= float(classes["2-8 %: PSNR"]) <= 8 < float(classes["8-20 %: PSNR"]) <= 20
    assert 20 < float(classes["20-40 %: PSNR"]) <= 40


def test_best_median_and_worst() -> None:
    ranked = chosen([score(i, psnr) for i, psnr in enumerate((30.0, 10.0, 20.0))])
    assert {title: each.edit for title, each in ranked.items()} == {"best": 0, "median": 2, "worst": 1}
