"""The command with the tiny model: pictures that say how they were made, failures, the summary, a second start."""

from __future__ import annotations

import json
import pickle
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdxl.batch.driver import Ended, Event, Ready
from sdxl.batch.ledger import Ledger, State
from sdxl.batch.main import main
from sdxl.batch.perform import Make, Outcome, perform
from sdxl.batch.row import Row
from sdxl.batch.summary import summarize
from sdxl.commands.main import main as run_main
from sdxl.pictures.png import read_settings

FLAGS = ("--model", "tiny", "--scale", "3", "--steps", "4", "--device", "cpu")
TABLE = """\
id,image,mask,edited,prompt,steps
horse,a.png,m.png,,a horse,6
sketch,a.png,,b.png,a barn,
broken,bad.png,m.png,,a barn,
"""


def draw(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(picture).save(folder / "a.png")
    picture[8:24, 8:24] = 200
    Image.fromarray(picture).save(folder / "b.png")
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[16:40, 24:48] = 255
    Image.fromarray(mask).save(folder / "m.png")
    (folder / "bad.png").write_bytes((folder / "a.png").read_bytes()[:500])
    (folder / "jobs.csv").write_text(TABLE)
    return folder / "jobs.csv"


class Here:
    """A pool of one worker in this process: a process of its own would import torch once more, which takes longest."""

    def __init__(self, make: Make, out: Path) -> None:
        self._make, self._ledger = pickle.loads(pickle.dumps(make)), Ledger(out)  # as a process would get it
        self._events: list[Event] = []

    def begin(self, lane: int) -> None:
        self._work = self._make(lane)
        self._events.append(Ready(lane))

    def give(self, lane: int, row: Row) -> None:
        self._events.append(Ended(lane, perform(row, self._work, self._ledger, lambda: True)))

    def wait(self) -> Sequence[Event]:
        return [self._events.pop(0)]

    def stop(self) -> None: ...


def test_a_batch_of_the_tiny_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdxl.batch.main._pool", lambda ray, make, out, workers: (Here(make, out), 1))
    jobs, out = draw(tmp_path), tmp_path / "out"
    assert main([str(jobs), str(out), "--json", *FLAGS]) == 1
    facts = json.loads(capsys.readouterr().out)
    assert {name: facts[name] for name in ("rows", "done", "failed", "set_aside", "left")} == {
        "rows": 3, "done": 2, "failed": 1, "set_aside": 0, "left": 0
    }  # fmt: skip
    assert facts["seconds_per_picture"] > 0 and 0 < facts["computed"] <= 1
    failure = json.loads((out / "failed/broken.json").read_text())
    assert "bad.png is damaged" in failure["error"] and failure["row"]["prompt"] == "a barn"

    settings = read_settings(out / "horse.png")
    said = {name: settings[name] for name in ("task", "run_type", "model", "prompt", "steps", "scale", "preset")}
    assert said == {"task": "inpainting", "run_type": "sige", "model": "tiny", "prompt": "a horse", "steps": 6,
                    "scale": 3.0, "preset": "balanced"}  # fmt: skip
    before = np.asarray(Image.open(tmp_path / "a.png"))
    after = np.asarray(Image.open(out / "horse.png"))
    assert (after[:16] == before[:16]).all() and (after[16:40, 24:48] != before[16:40, 24:48]).any()

    again = tmp_path / "again.png"
    assert run_main(["--from_png", str(out / "horse.png"), "--output_path", str(again)]) == 0
    assert (np.asarray(Image.open(again)) == after).all()

    times = {path: path.stat().st_mtime_ns for path in out.glob("*.png")}
    capsys.readouterr()
    assert main([str(jobs), str(out), *FLAGS]) == 1
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.png")} == times
    assert "0 of them now" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("nowhere", "out"), "nowhere does not exist, expected a folder, a .csv or a .parquet file"),
        (("jobs.csv", "."), "row 'a': image: a.png is a file that the batch writes: take another OUT"),
        ((".", "."), "is JOBS itself"),
        (("jobs.csv", "out", "--workers", "0"), "--workers: got 0, expected a number from 1 to 1024"),
        (("jobs.csv", "out", "--model", "sdxxl"), "--model: got 'sdxxl', expected one of"),
        (("jobs.csv", "out", "--dtype", "fp8"), "--dtype: got 'fp8', expected one of"),
        (("jobs.csv", "out", "--parquet", "out.csv"), "expected a name that ends in .parquet"),
        (("jobs.csv", "out", "--steps", "1", "--model", "tiny"), "row 'a': strength 0.5 of 1 steps leaves none"),
        (("missing.csv", "out", "--model", "tiny"), "row 'a': image: no.png does not exist: check the name"),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    sentence: str,
) -> None:
    draw(tmp_path)
    (tmp_path / "jobs.csv").write_text("id,image,mask,prompt,strength\na,a.png,m.png,x,0.5\n")
    (tmp_path / "missing.csv").write_text("id,image,mask,prompt\na,no.png,m.png,x\n")
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.startswith("error: ") and said.count("\n") == 1


def test_the_summary_counts_all_starts_and_times_this_one() -> None:
    states = {"a": State.DONE, "b": State.DONE, "c": State.FAILED, "d": State.SET_ASIDE, "e": State.LEFT}
    outcomes = [Outcome("b", State.DONE, 2.0, {"computed": 0.3}), Outcome("c", State.FAILED, error="it is damaged")]
    summary = summarize(Path("out"), states, outcomes, 10.0)
    assert not summary.is_whole
    assert summary.facts == {"out": "out", "rows": 5, "done": 2, "failed": 1, "set_aside": 1, "left": 1, "made_now": 1,
                             "seconds": 10.0, "seconds_per_picture": 2.0, "pictures_per_hour": 360,
                             "computed": 0.3}  # fmt: skip
    lines = summary.table.splitlines()
    assert lines[1].split() == ["done", "2", "1", "of", "them", "now"]
    assert lines[2].endswith("out/failed") and lines[3].endswith("out/deaths")
    assert lines[-2].split()[:2] == ["work", "30%"] and lines[-1] == "  c: it is damaged"


def test_results_become_one_parquet_file(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    from sdxl.batch.compact import compact
    from sdxl.batch.jobs import read_jobs
    from sdxl.batch.work import make_painter
    from sdxl.edits.asked import Defaults

    rows, ledger = read_jobs(draw(tmp_path)), Ledger(tmp_path / "out")
    ledger.prepare()
    words = {"model": "tiny", "weight_path": Path("pretrained"), "vae": None, "scheduler": None, "device": "cpu",
             "dtype": "fp32", "attention": "auto", "offload": "none", "lora": []}  # fmt: skip
    painter = make_painter(Namespace(**words), ["inpainting"], Defaults(4, 3.0), 1, 0)
    figures = painter(rows[0], ledger.picture("horse"), lambda: True)
    ledger.fail(rows[2], "it is damaged")
    assert compact(rows, ledger, tmp_path / "results.parquet") == 2
    one, two = parquet.read_table(tmp_path / "results.parquet").to_pylist()
    assert (one["id"], one["state"], one["computed"]) == ("horse", "done", figures["computed"])
    assert one["picture"] == {"bytes": ledger.picture("horse").read_bytes(), "path": "horse.png"}
    assert (two["id"], two["error"], two["picture"]) == ("broken", "it is damaged", None)
