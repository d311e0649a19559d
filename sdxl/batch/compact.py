"""compact: all results of a batch in one parquet file, a row each, with the picture as the bytes of its PNG."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from sdxl.batch.ledger import Ledger, State
from sdxl.batch.row import Row
from sdxl.batch.work import FIGURES
from sdxl.errors import InputError
from sdxl.pictures.images import opened
from sige.files import atomic_write

__all__ = ["check_parquet", "compact"]

AT_A_TIME = 64  # pictures in memory


def check_parquet(path: Path) -> Any:
    """The module that writes parquet files; refuses a name that is none, before anything takes time."""
    from sige.files import check_output

    if path.suffix != ".parquet":
        raise InputError(f"--parquet {path}: expected a name that ends in .parquet")
    check_output(path)
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise InputError("--parquet needs pyarrow: pip install 'sige[batch]'") from error
    return pyarrow


def compact(rows: Sequence[Row], ledger: Ledger, path: Path) -> int:
    """Writes the file, whole or not at all, and returns the number of its rows: those that are done, failed, aside.

    `picture` is a struct of `bytes` and `path`, as Hugging Face's datasets hold pictures.
    """
    pyarrow = check_parquet(path)
    schema = _schema(pyarrow)
    count = 0
    states = ledger.states(rows)
    with atomic_write(path) as temporary, pyarrow.parquet.ParquetWriter(temporary, schema) as writer:
        facts = _facts(rows, ledger, states)
        while some := list(islice(facts, AT_A_TIME)):
            writer.write_table(pyarrow.Table.from_pylist(some, schema=schema))
            count += len(some)
    return count


def _schema(pyarrow: Any) -> Any:
    text, number = pyarrow.string(), pyarrow.float64()
    picture = pyarrow.struct([("bytes", pyarrow.binary()), ("path", text)])
    return pyarrow.schema([
        ("id", text), ("state", text), ("prompt", text), ("seed", pyarrow.int64()), ("row", text), ("seconds", number),
        ("steps", pyarrow.int64()), ("computed", number), ("deaths", pyarrow.int64()), ("error", text),
        ("picture", picture),
    ])  # fmt: skip


def _facts(rows: Sequence[Row], ledger: Ledger, states: Mapping[str, State]) -> Iterator[dict[str, Any]]:
    for row in rows:
        state = states[row.id]
        if state is State.LEFT:
            continue
        said = row.to_dict()
        facts = {"id": row.id, "state": str(state), "prompt": said["prompt"], "seed": said["seed"],
                 "row": json.dumps(said, ensure_ascii=False), "deaths": ledger.deaths(row.id)}  # fmt: skip
        if state is State.DONE:
            file = ledger.picture(row.id)
            facts |= _figures(file) | {"picture": {"bytes": file.read_bytes(), "path": file.name}}
        elif state is State.FAILED:
            facts["error"] = ledger.failure(row.id).get("error")
        yield facts


def _figures(file: Path) -> dict[str, Any]:
    """What the picture says of its making; nothing where another program wrote it."""
    with opened(file, formats=("PNG",)) as image:
        text = image.info.get(FIGURES)
    try:
        said = json.loads(text) if isinstance(text, str) else {}
    except ValueError:
        return {}
    return {name: said.get(name) for name in ("seconds", "steps", "computed")} if isinstance(said, dict) else {}
