"""Files appear whole or not at all: killed, interrupted, on a full disk, where writing is not permitted."""

from __future__ import annotations

import doctest
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sige import files
from sige.errors import OutputError
from sige.files import atomic_write, check_free_space, check_output

OLD, NEW = b"old" * 1000, b"new" * 2000

# A program that dies at one point of a write; argv is the path and the point.
KILLED = """
import os, signal, sys
from pathlib import Path
from sige import files

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

path, where = Path(sys.argv[1]), sys.argv[2]
replace = os.replace
if where == "before the data are on the disk":
    os.fsync = die
if where == "before the file is replaced":
    os.replace = die
if where == "after the file is replaced":
    os.replace = lambda *names: (replace(*names), die())
with files.atomic_write(path) as temporary:
    if where == "before the first byte":
        die()
    with open(temporary, "wb") as file:
        file.write(b"new" * 1000)
        file.flush()
        if where == "in the middle of the data":
            die()
        file.write(b"new" * 1000)
    if where == "after the last byte":
        die()
"""

# A program that writes one letter, then the other, for ever; argv is the path.
REWRITING = """
import itertools, sys
from sige import files
for letter in itertools.cycle((b"a", b"b")):
    with files.atomic_write(sys.argv[1]) as temporary:
        temporary.write_bytes(letter * 1_000_000)
"""

FULL = """
import resource, sys
from sige import errors
from sige import files
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with files.atomic_write(sys.argv[1]) as temporary:
        temporary.write_bytes(b"new" * 2000)
except errors.OutputError as error:
    sys.exit(f"refused: {error}")
"""

NOBODY = """
import os, sys
from sige import errors
from sige import files
if os.getuid() == 0:
    os.setgid(65534), os.setuid(65534)
try:
    files.check_output(sys.argv[1])
except errors.OutputError as error:
    sys.exit(f"refused: {error}")
"""


def in_child(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "file.bin"
    path.write_bytes(OLD)
    return path


def test_the_new_file_stands_and_nothing_else(old: Path) -> None:
    with atomic_write(old) as temporary:
        assert temporary.stat().st_dev == old.stat().st_dev  # a rename across file systems is a copy
        temporary.write_bytes(NEW)
        assert old.read_bytes() == OLD
    assert old.read_bytes() == NEW
    assert names_in(old.parent) == ["file.bin"]


@pytest.mark.parametrize(
    ("where", "content"),
    [
        ("before the first byte", OLD),
        ("in the middle of the data", OLD),
        ("after the last byte", OLD),
        ("before the data are on the disk", OLD),
        ("before the file is replaced", OLD),
        ("after the file is replaced", NEW),
    ],
)
def test_promise_7_killed_at_any_point_leaves_the_old_or_the_new_file(old: Path, where: str, content: bytes) -> None:
    assert in_child(KILLED, old, where).returncode == -signal.SIGKILL
    assert old.read_bytes() == content


def test_promise_7_killed_at_a_random_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    for extra in range(6):
        with subprocess.Popen([sys.executable, "-c", REWRITING, str(path)]) as child:
            until = time.monotonic() + 30
            while not path.exists() and time.monotonic() < until:
                time.sleep(0.005)
            time.sleep(0.04 + 0.007 * extra)
            child.kill()
        content = path.read_bytes()
        assert content in (b"a" * 1_000_000, b"b" * 1_000_000)


def test_promise_7_a_full_disk_is_an_error_and_the_old_file_stays(old: Path) -> None:
    child = in_child(FULL, old)
    assert child.stderr.startswith(f"refused: {old}: not written, the disk is full"), child.stderr
    assert old.read_bytes() == OLD
    assert names_in(old.parent) == ["file.bin"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_promise_7_a_disk_that_is_full_only_when_synced(old: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OutputError, match="disk is full; free some space"), atomic_write(old) as temporary:
        temporary.write_bytes(NEW)
    assert old.read_bytes() == OLD
    assert names_in(old.parent) == ["file.bin"]


def test_promise_7_the_data_are_on_the_disk_before_the_name(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def noted(call: Callable[..., None]) -> Callable[..., None]:
        def noting(*arguments: Any) -> None:
            calls.append(call.__name__)
            call(*arguments)

        return noting

    for call in (os.fsync, os.replace):
        monkeypatch.setattr(os, call.__name__, noted(call))
    with atomic_write(old) as temporary:
        temporary.write_bytes(NEW)
    assert calls == ["fsync", "replace", "fsync"]  # the file, its name, the folder that holds the name


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_promise_7_the_file_has_the_mode_of_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with atomic_write(tmp_path / "file.bin") as temporary:
            temporary.write_bytes(NEW)
    finally:
        os.umask(before)
    assert (tmp_path / "file.bin").stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("raised", [ValueError("no"), KeyboardInterrupt(), OSError(errno.EIO, "disk on fire")])
def test_an_exception_inside_passes_and_leaves_the_old_file(old: Path, raised: BaseException) -> None:
    with pytest.raises(type(raised)) as caught, atomic_write(old) as temporary:
        temporary.write_bytes(NEW)
        raise raised
    assert caught.value is raised
    assert old.read_bytes() == OLD
    assert names_in(old.parent) == ["file.bin"]


def test_a_block_that_removes_the_file_is_an_error(old: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(old) as temporary:
        temporary.unlink()
    assert old.read_bytes() == OLD


def test_a_link_is_replaced_and_what_it_points_to_stays(old: Path) -> None:
    link = old.with_name("link.bin")
    link.symlink_to(old)
    with atomic_write(link) as temporary:
        temporary.write_bytes(NEW)
    assert not link.is_symlink()
    assert (link.read_bytes(), old.read_bytes()) == (NEW, OLD)


@pytest.mark.parametrize("name", ["a" * 251 + ".bin", "ä" * 125 + ".bin", "-", ".hidden"])
def test_any_name_that_the_disk_takes(tmp_path: Path, name: str) -> None:
    with atomic_write(tmp_path / name) as temporary:
        temporary.write_bytes(NEW)
    assert names_in(tmp_path) == [name]


def test_a_bare_name_is_written_where_we_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with atomic_write("file.bin") as temporary:
        temporary.write_bytes(NEW)
    assert Path("file.bin").read_bytes() == NEW


def test_two_writers_of_one_path_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    with atomic_write(path) as first, atomic_write(path) as second:
        assert first != second
        first.write_bytes(OLD)
        second.write_bytes(NEW)
    assert path.read_bytes() == OLD  # the outer block ends last


def test_outputs_that_cannot_be_written_are_refused_before_the_block(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path, "is a folder"),
        (tmp_path / "missing" / "file.bin", "does not exist; create it first"),
        (Path("/dev/null"), "is a device or a pipe"),
        (tmp_path / ("a" * 300), "cannot be written"),
    ):
        with pytest.raises(OutputError, match=message):
            check_output(path)
        with pytest.raises(OutputError, match=message), atomic_write(path):
            pytest.fail("the block was entered")


@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_a_folder_without_permission_is_refused(mode: int) -> None:
    folder = Path("/tmp") / f"sige-test-{os.getpid()}-{mode}"  # not tmp_path, which others may not even enter
    folder.mkdir()
    try:
        folder.chmod(mode)
        child = in_child(NOBODY, folder / "file.bin")
        assert child.stderr.startswith(f"refused: {folder}/file.bin: "), child.stderr
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_free_space_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_free_space(tmp_path / "file.bin", 1)
    usage: Any = type("Usage", (), {"free": 2_000_000_000})
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    check_free_space(tmp_path / "file.bin", 2_000_000_000)
    with pytest.raises(OutputError, match=r"needs 7\.00 GB, but .* has 2\.00 GB free; free some space"):
        check_free_space(tmp_path / "file.bin", 7_000_000_000)
    with pytest.raises(OutputError, match="does not exist"):
        check_free_space(tmp_path / "missing" / "file.bin", 1)


def test_the_examples_hold(tmp_path: Path) -> None:
    found = doctest.testmod(files, extraglobs={"folder": tmp_path}, optionflags=doctest.ELLIPSIS)
    assert found.attempted and not found.failed
