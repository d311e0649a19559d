"""The batch on Ray's actors: the same ends of rows as with processes. tests/batch/kills.py --ray kills them by hand."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from sdxl.batch.jobs import read_jobs
from sdxl.batch.ledger import Ledger, State
from sdxl.batch.main import run_batch
from sdxl.commands.ray_cluster import connect
from sdxl.edits.asked import Defaults
from sdxl.errors import InputError, SdxlError
from tests.batch import hooks


def test_without_ray_a_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"--ray needs Ray: pip install 'sige\[ray\]'"):
        connect("")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.usefixtures("cluster")
def test_rows_end_as_they_must(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    prompts = ("a horse", "fails", "kills", "a barn", "lost")
    lines = [f"r{number},a.png,{prompt}" for number, prompt in enumerate(prompts)]
    (tmp_path / "jobs.csv").write_text("\n".join(["id,image,prompt", *lines]) + "\n")
    rows, out = read_jobs(tmp_path / "jobs.csv"), tmp_path / "out"
    summary = run_batch(rows, out, hooks.make, Defaults(), workers=2, ray="")
    assert summary.counts == {State.DONE: 2, State.FAILED: 1, State.SET_ASIDE: 2, State.LEFT: 0}
    ledger = Ledger(out)
    assert (ledger.deaths("r2"), ledger.deaths("r4")) == (3, 3)
    assert sorted(hooks.made(out)) == ["r0", "r3"]
    again = run_batch(rows, out, hooks.make, Defaults(), workers=2, ray="")
    assert again.counts == summary.counts and not again.made
    with pytest.raises(SdxlError, match="the weights are damaged"):
        run_batch(rows, tmp_path / "other", hooks.make_broken, Defaults(), workers=1, ray="")
