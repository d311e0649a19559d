"""Jobs are read strictly: each mistake is one sentence that names its row."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from sdxl.batch import jobs
from sdxl.batch.jobs import read_jobs
from sdxl.batch.main import check_outputs
from sdxl.batch.row import Row
from sdxl.edits.asked import Asked, Defaults
from sdxl.errors import InputError
from sige.errors import SigeError

HEAD = "id,image,mask,prompt"


def table(folder: Path, text: str, name: str = "jobs.csv", encoding: str = "utf-8") -> Path:
    (folder / name).write_text(text, encoding=encoding)
    return folder / name


def test_a_table_gives_rows_with_paths_beside_it(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "id,image,mask,edited,prompt,negative_prompt,seed,steps,scale,strength,dense_steps,dense,grow,mask_blur,"
        "match_edge,only_masked\n"
        'one,a.png,m.png,,"a horse, brown",ugly,7,20,5.5,0.9,"0,1,4",false,4,2,24,64\n'
        "two,sub/b.png,,e.png,a barn,,,,,,,,,,,\n",
        encoding="utf-8-sig",
    )
    one, two = read_jobs(path)
    assert (one.id, one.image, one.mask, one.edited) == ("one", tmp_path / "a.png", tmp_path / "m.png", None)
    assert one.asked == Asked("a horse, brown", "ugly", 20, 5.5, 0.9, 7, (0, 1, 4), False, 4, 2, 24, 64)
    assert (two.task, two.image, two.edited) == ("sdedit", tmp_path / "sub/b.png", tmp_path / "e.png")
    assert one.to_dict()["scale"] == 5.5 and "mask" not in two.to_dict()


def test_a_row_without_a_seed_has_always_the_same(tmp_path: Path) -> None:
    path = table(tmp_path, f"{HEAD}\none,a.png,m.png,a\ntwo,a.png,m.png,a\n")
    first, second = (read_jobs(path) for _ in range(2))
    assert first == second
    assert first[0].asked.seed != first[1].asked.seed


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (",a.png,m.png,x", "line 2: id: is missing, expected a name of its own for each row"),
        ("one,,m.png,x", "line 2: image: is missing, expected the file of the picture before the edit"),
        ("one,a.png,m.png,", "line 2: prompt: is missing, expected what the picture shows"),
        ("one,a.png,,x", "line 2: mask: is empty, so the whole picture would change: name a file"),
        ("../one,a.png,m.png,x", "line 2: id: got '../one', expected the name of a file"),
        (".one,a.png,m.png,x", "line 2: id: got '.one', expected the name of a file"),
        ("one.,a.png,m.png,x", "line 2: id: got 'one.', expected the name of a file"),
        (f"{'x' * 151},a.png,m.png,x", "line 2: id: has 151 bytes, expected at most 150: shorten it"),
        ("one,a.png,m.png,x,y", "line 2: has 5 cells, expected 4: put quotes around a text with commas"),
        ("one,a.png,m.png", "line 2: has 3 cells, expected 4"),
        ('one,a.png,m.png,"x', "is no CSV"),
        (
            "one,a.png,m.png,x\nONE,a.png,m.png,x",
            "line 3: id: 'ONE' is also that of line 2, expected",
        ),
        ("one,a.png,m.png,(x:99)", "line 2: prompt: "),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, line: str, sentence: str) -> None:
    with pytest.raises(SigeError, match="jobs.csv") as caught:
        read_jobs(table(tmp_path, f"{HEAD}\n{line}\n"))
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("column", "value", "sentence"),
    [
        ("seed", "x", "seed: got 'x', expected a whole number"),
        ("steps", "0", "steps: got 0, expected a number from 1 to 200"),
        ("scale", "nan", "scale: got 'nan', expected a number"),
        ("strength", "2", "strength: got 2.0, expected a number from 0 to 1"),
        ("strength", "0", "leaves none: raise one of the two"),
        ("dense_steps", "a", "dense_steps: got 'a', expected how many steps"),
        ("only_masked", "-1", "only_masked: got -1, expected a number of pixels from 0 to"),
        ("dense", "perhaps", "dense: got 'perhaps', expected true or false"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, column: str, value: str, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        read_jobs(table(tmp_path, f"{HEAD},{column}\none,a.png,m.png,x,{value}\n"))
    assert sentence in str(caught.value) and "line 2: " in str(caught.value)


@pytest.mark.parametrize(
    ("head", "sentence"),
    [
        ("id,image,mask,promt", "column: got 'promt', expected one of id, image"),
        ("id,image,mask,prompt,lora", "column lora: a table names neither weights nor outputs: take the flags"),
        ("id,image,mask,prompt,output_path", "column output_path: a table names neither weights nor outputs"),
        ("id,image,prompt,prompt", "column prompt is there 2 times, expected once"),
        ("image,mask,prompt", "column id is missing"),
        ("id;image;mask;prompt", "parted by ';', expected commas"),
        ("", "column id is missing"),
    ],
)
def test_a_wrong_head_is_named(tmp_path: Path, head: str, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        read_jobs(table(tmp_path, f"{head}\n"))
    assert sentence in str(caught.value)


def test_a_mask_that_grows_needs_a_mask(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 2: grow: got 4 without a mask"):
        read_jobs(table(tmp_path, "id,image,prompt,grow\none,a.png,x,4\n"))


def test_all_mistakes_are_counted_and_the_first_are_said(tmp_path: Path) -> None:
    lines = "\n".join(f"r{number},a.png,m.png," for number in range(5))
    with pytest.raises(InputError, match="line 2: .*line 4: .*; and 2 more rows with mistakes$"):
        read_jobs(table(tmp_path, f"{HEAD}\n{lines}\n"))


def test_files_that_are_no_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bytes.csv").write_bytes(b"id,image,prompt\n1,\xff,x\n")
    (tmp_path / "jobs.txt").write_text("x")
    (tmp_path / "empty.csv").write_text(f"{HEAD}\n")
    (tmp_path / "hole").mkdir()
    for name, sentence in (("bytes.csv", "is no UTF-8"), ("jobs.txt", "got a .txt file"), ("no.csv", "does not exist"),
                           ("empty.csv", "has no rows"), ("hole", "has no rows")):  # fmt: skip
        with pytest.raises(InputError, match=sentence):
            read_jobs(tmp_path / name)
    monkeypatch.setattr(jobs, "MOST_ROWS", 2)
    with pytest.raises(InputError, match="more than 2 rows"):
        read_jobs(table(tmp_path, f"{HEAD}\n" + "".join(f"r{number},a.png,m.png,x\n" for number in range(3))))


# ---- a folder --------------------------------------------------------------------------------------------------------


def photos(folder: Path) -> Path:
    for name in ("castle.png", "castle.mask.png", "a.b.jpg", "a.b.edited.png"):
        Image.new("RGB", (8, 8)).save(folder / name)
    (folder / "castle.txt").write_text("a horse\n")
    (folder / "a.b.txt").write_text("a barn")
    return folder


def test_a_folder_gives_a_row_for_each_picture(tmp_path: Path) -> None:
    second, first = read_jobs(photos(tmp_path))[::-1]
    assert (first.id, first.task, first.mask) == ("a.b", "sdedit", None)
    assert (second.id, second.mask, second.asked.prompt) == ("castle", tmp_path / "castle.mask.png", "a horse")


def test_a_table_in_a_folder_counts_and_its_pictures_do_not(tmp_path: Path) -> None:
    table(photos(tmp_path), f"{HEAD}\none,castle.png,castle.mask.png,x\n")
    assert [row.id for row in read_jobs(tmp_path)] == ["one"]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("castle.txt", "picture castle.png: prompt: is missing"),
        ("castle.mask.png", "picture castle.png: has neither castle.mask.png nor castle.edited.png"),
        ("castle.png", "castle.mask.png: there is no picture castle.png beside it"),
    ],
)
def test_a_file_that_is_missing_in_a_folder_is_named(tmp_path: Path, name: str, sentence: str) -> None:
    (photos(tmp_path) / name).unlink()
    with pytest.raises(InputError) as caught:
        read_jobs(tmp_path)
    assert sentence in str(caught.value)


# ---- what it reads and writes ----------------------------------------------------------------------------------------


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    row = Row("one", tmp_path / "a.png", Asked("x"))
    with pytest.raises(InputError, match=r"image: .*a.png does not exist"):
        row.check(Defaults())


def test_an_out_that_is_the_jobs_is_refused(tmp_path: Path) -> None:
    row = Row("castle", tmp_path / "castle.png", Asked("x"))
    with pytest.raises(InputError, match="is JOBS itself"):
        check_outputs([row], tmp_path, tmp_path)
    with pytest.raises(InputError, match="row 'castle': image: .* is a file that the batch writes"):
        check_outputs([row], tmp_path / "jobs.csv", tmp_path)
    check_outputs([row], tmp_path / "jobs.csv", tmp_path / "out")


def test_parquet_is_read_as_a_table(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    columns = {"id": ["one", "two"], "image": ["a.png", "b.png"], "prompt": ["x", "y"], "seed": [7.0, None]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "jobs.parquet")
    one, two = read_jobs(tmp_path / "jobs.parquet")
    assert (one.image, one.asked.seed, two.asked.prompt) == (tmp_path / "a.png", 7, "y")
    parquet.write_table(pyarrow.table(columns | {"image": [b"a", b"b"]}), tmp_path / "jobs.parquet")
    with pytest.raises(InputError, match="column image: holds binary, expected texts"):
        read_jobs(tmp_path / "jobs.parquet")
    (tmp_path / "jobs.parquet").write_bytes(b"PAR1 and nothing")
    with pytest.raises(InputError, match="is no parquet that can be read"):
        read_jobs(tmp_path / "jobs.parquet")
