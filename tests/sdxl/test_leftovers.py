"""What a killed process leaves goes at the next start beside it; what a living one writes stays."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sige import leftovers
from sige.files import atomic_write, check_free_space, check_output
from sige.leftovers import part_name, remove_leftovers

# A program that begins a file, and a library's own beside it, and waits; argv is the path.
WRITING = """
import sys, time
from sige.files import atomic_write
with atomic_write(sys.argv[1]) as temporary:
    temporary.write_bytes(b"half")
    temporary.with_name(".tmpA1b2").write_bytes(b"a library's own")
    print("writing", flush=True)
    time.sleep(60)
"""


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def writing(path: Path) -> subprocess.Popen[str]:
    """A process that is in the middle of the file."""
    child = subprocess.Popen([sys.executable, "-c", WRITING, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "writing\n"
    return child


def test_a_killed_process_leaves_nothing_after_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    child = writing(path)
    before = names_in(tmp_path)
    assert len(before) == 2
    check_output(path)
    assert names_in(tmp_path) == before, "it still writes"
    child.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it is dead, and nobody has asked for its status
    with atomic_write(path) as temporary:
        temporary.write_bytes(b"new")
    child.communicate()
    assert (path.read_bytes(), names_in(tmp_path)) == (b"new", ["file.bin"])


@pytest.mark.parametrize("start", [check_output, lambda path: check_free_space(path, 1)])
def test_the_space_is_free_again_before_it_is_counted(tmp_path: Path, start: object) -> None:
    child = writing(tmp_path / "file.bin")
    child.kill()
    child.communicate()
    start(tmp_path / "another.bin")  # type: ignore[operator]
    assert names_in(tmp_path) == []


def changed(name: str, **fields: str) -> str:
    """The name with another host, space, process or start."""
    parts = re.fullmatch(
        r"(?P<name>\..*)\.(?P<host>[\w-]+)\.(?P<space>\d+)\.(?P<pid>\d+)\.(?P<start>\d+)\.(\w{8}\.part)", name
    )
    assert parts is not None
    found = parts.groupdict() | fields
    return ".".join([*found.values(), parts[6]])


def test_a_process_that_took_over_the_number_of_a_dead_one_saves_nothing(tmp_path: Path) -> None:
    mine = part_name("a.bin")
    reused = changed(mine, start="1")  # this process has the number, and began later
    for name in (mine, reused):
        (tmp_path / name).mkdir()
    remove_leftovers(tmp_path)
    assert names_in(tmp_path) == [mine]


@pytest.mark.parametrize("field", [{"host": "elsewhere"}, {"space": "1"}])
def test_other_machines_and_containers_have_a_week(tmp_path: Path, field: dict[str, str]) -> None:
    """A dead number here may be a living process there, on a disk that both share."""
    name = changed(part_name("a.bin"), pid="4194305", **field)
    (tmp_path / name).mkdir()
    (tmp_path / name / "a.bin").write_bytes(b"half")
    remove_leftovers(tmp_path)
    assert names_in(tmp_path) == [name]
    long_ago = time.time() - leftovers.SILENCE - 60
    os.utime(tmp_path / name, (long_ago, long_ago))
    remove_leftovers(tmp_path)
    assert names_in(tmp_path) == [name], "the file in it is new"
    os.utime(tmp_path / name / "a.bin", (long_ago, long_ago))
    remove_leftovers(tmp_path)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    "name", [".a.part", "a.host.1.2.3.00000000.part", ".x.part.txt", "film.part", ".a.h.1.2.3.zz.part"]
)
def test_files_of_others_stay(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    remove_leftovers(tmp_path)
    assert names_in(tmp_path) == [name]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_bytes(b"x")
    (tmp_path / changed(part_name("a"), pid="4194305")).symlink_to(tmp_path / "precious")
    remove_leftovers(tmp_path)
    assert (tmp_path / "precious" / "file").read_bytes() == b"x"


@pytest.mark.parametrize("name", ["a" * 255, "ä" * 127, "馬" * 85, ".", "a\nb"])
def test_a_name_is_short_enough_for_any_disk(tmp_path: Path, name: str) -> None:
    made = part_name(name)
    assert len(os.fsencode(made)) <= 255
    (tmp_path / made).mkdir()
    remove_leftovers(tmp_path)
    assert names_in(tmp_path) == [made], "this process is alive"
    shutil.rmtree(tmp_path / made)


def test_another_users_process_counts_as_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, number: int) -> None:
        raise PermissionError

    name = part_name("a.bin")
    (tmp_path / name).mkdir()
    monkeypatch.setattr(os, "kill", refuse)
    remove_leftovers(tmp_path)
    assert names_in(tmp_path) == [name]
