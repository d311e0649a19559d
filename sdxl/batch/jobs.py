"""Jobs: the rows of a folder, of a CSV or of a parquet file. Every mistake names its row, before anything takes time.

NAME.png NAME.mask.png NAME.txt    in a folder: picture, mask (or NAME.edited.png) and prompt
id,image,mask,prompt,…             in a table; the paths are relative to it
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from sdxl.batch.row import COLUMNS, FORBIDDEN, Row, fold, row_of
from sdxl.errors import InputError, SdxlError
from sige.leftovers import remove_leftovers

__all__ = ["read_jobs"]

TABLE = "jobs.csv"  # in a folder
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MOST_BYTES = 1_000_000_000  # of a table
MOST_ROWS = 1_000_000
MOST_TEXT = 200_000  # bytes of a prompt's file
TOLD = 3  # mistakes in one message

Cells = tuple[str, Mapping[str, str]]  # where they stand, and the text of each column


def read_jobs(jobs: Path) -> list[Row]:
    """All rows, in the order in which they stand there.

    >>> [row.id for row in read_jobs(folder / "jobs.csv")]
    ['horse', 'barn']
    """
    if jobs.is_dir() and (jobs / TABLE).is_file():
        jobs = jobs / TABLE
    if jobs.is_dir():
        return _checked(_of_folder(jobs), jobs, jobs)
    if not jobs.is_file():
        raise InputError(f"{jobs} does not exist, expected a folder, a .csv or a .parquet file: check the name")
    readers: dict[str, Callable[[Path], Iterator[Cells]]] = {".csv": _of_csv, ".parquet": _of_parquet}
    if jobs.suffix.lower() not in readers:
        raise InputError(f"{jobs}: got a {jobs.suffix or 'nameless'} file, expected a folder, .csv or .parquet")
    if jobs.stat().st_size > MOST_BYTES:
        raise InputError(f"{jobs} has {jobs.stat().st_size / 1e9:.1f} GB, expected at most 1: split it")
    return _checked(readers[jobs.suffix.lower()](jobs), jobs.parent, jobs)


def _checked(found: Iterator[Cells], folder: Path, jobs: Path) -> list[Row]:
    """The rows; raises one error for all mistakes, which says the first ones."""
    rows, where_of, wrong = list[Row](), dict[str, str](), list[str]()
    for where, cells in found:
        if len(rows) + len(wrong) == MOST_ROWS:
            raise InputError(f"{jobs} has more than {MOST_ROWS:,} rows: split it")
        try:
            _check_picture(cells)
            row = row_of(cells, folder)
            other = where_of.setdefault(fold(row.id), where)
            if other != where:
                raise InputError(f"id: {row.id!r} is also that of {other}, expected names that differ")
            rows.append(row)
        except SdxlError as error:
            wrong.append(f"{where}: {error}")
    if wrong:
        more = f"; and {len(wrong) - TOLD:,} more rows with mistakes" if len(wrong) > TOLD else ""
        raise InputError(f"{jobs}: {'; '.join(wrong[:TOLD])}{more}")
    if not rows:
        raise InputError(f"{jobs} has no rows: expected one for each picture")
    return rows


def _check_picture(cells: Mapping[str, str]) -> None:
    """Refuses an empty mask where the table has masks: without one, the whole picture would be painted."""
    asks = [name for name in ("mask", "edited") if name in cells]
    if asks and not any(cells[name].strip() for name in asks):
        names, advice = " and ".join(asks), "name a file, or leave the column out of the table"
        raise InputError(f"{names}: is empty, so the whole picture would change: {advice}", asks[0])


# ---- a folder --------------------------------------------------------------------------------------------------------


def _of_folder(folder: Path) -> Iterator[Cells]:
    remove_leftovers(folder)
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    beside: dict[str, dict[str, str]] = {}
    pictures = []
    for path in files:
        name, _, kind = path.stem.rpartition(".")
        if name and kind in ("mask", "edited"):
            beside.setdefault(name, {})[kind] = path.name
        else:
            pictures.append(path)
    stems = {path.stem for path in pictures}
    for name in beside:
        if name not in stems:
            raise InputError(f"{folder / next(iter(beside[name].values()))}: there is no picture {name}.png beside it")
    for path in pictures:
        where = f"picture {path.name}"
        if path.stem not in beside:
            raise InputError(f"{folder}: {where}: has neither {path.stem}.mask.png nor {path.stem}.edited.png")
        yield where, {"id": path.stem, "image": path.name, "prompt": _prompt(folder, path.stem), **beside[path.stem]}


def _prompt(folder: Path, name: str) -> str:
    path = folder / f"{name}.txt"
    if not path.is_file():
        return ""  # the row says that its prompt is missing
    if path.stat().st_size > MOST_TEXT:
        raise InputError(f"{path} has more than {MOST_TEXT:,} bytes, expected a prompt")
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no UTF-8, expected a prompt as text: save it as such") from error


# ---- tables ----------------------------------------------------------------------------------------------------------


def _of_csv(file: Path) -> Iterator[Cells]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.reader(opened, strict=True)
            names = _names(file, next(reader, []))
            for cells in reader:
                if not any(cells):
                    continue
                where = f"line {reader.line_num}"
                if len(cells) != len(names):
                    advice = "put quotes around a text with commas"
                    raise InputError(f"{file}: {where}: has {len(cells)} cells, expected {len(names)}: {advice}")
                yield where, dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise InputError(f"{file}: line {reader.line_num}: is no CSV ({error}): save the table again") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is no UTF-8, expected a table as CSV in UTF-8: save it as such") from error


def _of_parquet(file: Path) -> Iterator[Cells]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(f"{file}: needs pyarrow: pip install 'sige[batch]', or give a CSV") from error
    number = 0
    try:
        with parquet.ParquetFile(file) as opened:
            names = _names(file, opened.schema_arrow.names)
            for name in names:
                if pyarrow.types.is_nested(kind := opened.schema_arrow.field(name).type) or "binary" in str(kind):
                    raise InputError(f"{file}: column {name}: holds {kind}, expected texts: name pictures by files")
            for batch in opened.iter_batches(1000):
                for values in batch.to_pylist():
                    number += 1
                    yield f"row {number}", {name: _text(value) for name, value in values.items()}
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        if isinstance(error, SdxlError):
            raise
        raise InputError(f"{file} is no parquet that can be read: write it again") from error


def _text(value: object) -> str:
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _names(file: Path, names: list[str]) -> list[str]:
    """The columns, each known and there once."""
    from sdxl.commands.rules import unknown

    names = [name.strip() for name in names]
    if len(names) == 1 and ";" in names[0]:
        raise InputError(f"{file}: its columns are parted by ';', expected commas: save the table again")
    for name in names:
        if name in FORBIDDEN:
            raise InputError(f"{file}: column {name}: a table names neither weights nor outputs: take the flags")
        if name not in COLUMNS:
            raise InputError(f"{file}: {unknown('column', name[:40], COLUMNS)}")
        if names.count(name) > 1:
            raise InputError(f"{file}: column {name} is there {names.count(name)} times, expected once")
    for name in ("id", "image", "prompt"):
        if name not in names:
            raise InputError(f"{file}: column {name} is missing: the first line names the columns")
    return names
