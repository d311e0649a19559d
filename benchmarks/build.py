"""Cold installation: seconds of `pip install .`, seconds of each compiled file, bytes of each library.

    python -m benchmarks.build [--json OUT]

Installs a fresh clone of HEAD twice (without CUDA, then with it where there is an nvcc) into an empty folder, in pip's
isolated build environment and next to the torch of this one. Files are then compiled one at a time.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from benchmarks.harness import ROOT, Row, machine, print_table, write_json


def cold_install(clone: Path, target: Path, cuda: bool) -> Row:
    """The seconds and the library sizes of one `pip install .` of a clone that was never built."""
    environment = {**os.environ, "SIGE_CUDA": "1" if cuda else "0"}
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(clone)]
    begin = perf_counter()
    subprocess.run(command, check=True, env=environment)
    seconds = perf_counter() - begin
    sizes = {path.name: path.stat().st_size for path in sorted((target / "sige").rglob("*.so"))}
    return {"install": "CPU and CUDA" if cuda else "CPU only", "seconds": seconds, "bytes": sizes}


def compile_times(clone: Path, cuda: bool) -> list[Row]:
    """The seconds of each compiled file, one compiled after the other; the slowest comes first."""
    folder = clone / "build" / "native"
    shutil.rmtree(folder)
    environment = {**os.environ, "SIGE_CUDA": "1" if cuda else "0", "MAX_JOBS": "1"}
    build = [sys.executable, "setup.py", "--quiet", "build_ext", "--build-lib", str(clone / "build" / "lib")]
    subprocess.run(build, check=True, cwd=clone, env=environment)
    rows = []
    for line in (folder / ".ninja_log").read_text().splitlines()[1:]:
        start, end, _, output, _ = line.split("\t")
        rows.append({"file": Path(output).name, "seconds": (int(end) - int(start)) / 1e3})
    return sorted(rows, key=lambda row: -row["seconds"])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write figures and machine to OUT")
    options = parser.parse_args(arguments)
    sys.path.insert(0, str(ROOT / "tools"))
    from native_build import find_cuda

    facts = machine()
    print(", ".join(f"{name} {value}" for name, value in facts.items() if name != "backends"))
    installs, files = [], []
    for cuda in (False, True) if find_cuda() else (False,):
        with tempfile.TemporaryDirectory() as scratch:
            clone = Path(scratch) / "clone"
            subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
            installs.append(cold_install(clone, Path(scratch) / "site", cuda))
            files = compile_times(clone, cuda)  # the last build has every file
    print_table([{key: value for key, value in row.items() if key != "bytes"} for row in installs])
    print_table([{"library": name, "kB": size / 1e3} for name, size in installs[-1]["bytes"].items()])
    print_table(files)
    if options.json:
        write_json(options.json, {"machine": facts, "installs": installs, "files": files})


if __name__ == "__main__":
    main()
