"""The structure of our packages, read from their imports: files, median lines, circles, arrows between rooms, times.

    python tools/structure.py [--tree FOLDER] [--times]

A room is a folder or a file directly inside a package. An arrow leads from a room to another one that it imports, at
any place in a file. `--tree` names another checkout, to compare before and after. `--times` runs `import sige` and
`run.py --help` five times each, in new processes, and prints the medians.
"""

from __future__ import annotations

import argparse
import ast
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

__all__ = ["Imports", "arrows", "circles", "modules_of", "read_imports", "rooms"]

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("sige", "sdxl")
Imports = dict[str, set[str]]  # module -> the modules that it imports: ours by full name, others by top-level name


def modules_of(tree: Path, package: str) -> dict[str, Path]:
    """The modules of a package by name; a package's own name stands for its `__init__`."""
    found = {}
    for path in sorted((tree / package).rglob("*.py")):
        parts = path.relative_to(tree).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def read_imports(tree: Path, packages: tuple[str, ...] = PACKAGES) -> Imports:
    """The imports of every module: at the top, inside functions, and for type checkers alike."""
    modules = {name: path for package in packages for name, path in modules_of(tree, package).items()}
    return {name: set(_imported(path, modules)) - {name} for name, path in modules.items()}


def _imported(path: Path, modules: dict[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules else node.module for name in full]
        else:
            continue
        yield from (name if name in modules else name.partition(".")[0] for name in names)


def circles(imports: Imports) -> list[list[str]]:
    """The groups of modules that import each other, directly or through others.

    >>> circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})
    [['a', 'b', 'c']]
    """
    reached = {name: _reached(name, imports) for name in imports}
    groups = {
        tuple(sorted({name, *(other for other in reached[name] if name in reached.get(other, set()))}))
        for name in imports
        if name in reached[name]
    }
    return [list(group) for group in sorted(groups)]


def _reached(start: str, imports: Imports) -> set[str]:
    seen: set[str] = set()
    waiting = list(imports[start])
    while waiting:
        name = waiting.pop()
        if name not in seen and name in imports:
            seen.add(name)
            waiting += imports[name]
    return seen


def rooms(imports: Imports, package: str) -> set[str]:
    """The folders and files directly inside a package."""
    return {_room(name) for name in imports if name.partition(".")[0] == package}


def arrows(imports: Imports, package: str) -> set[tuple[str, str]]:
    """The arrows of a package: from each room to the other rooms that it imports.

    >>> sorted(arrows({"p.a.x": {"p.b"}, "p.a.y": {"p.b", "p.a.x"}, "p.b": set()}, "p"))
    [('p.a', 'p.b')]
    """
    inside = [name for name in imports if name.partition(".")[0] == package]
    pairs = {(_room(name), _room(other)) for name in inside for other in imports[name] if other in imports}
    return {(here, there) for here, there in pairs if here != there and there.partition(".")[0] == package}


def _room(module: str) -> str:
    return ".".join(module.split(".")[:2])


def _median_time(command: list[str], tree: Path, runs: int = 5) -> float:
    seconds = []
    for _ in range(runs + 1):  # the first one fills caches
        begin = perf_counter()
        subprocess.run([sys.executable, *command], cwd=tree, check=True, capture_output=True)
        seconds.append(perf_counter() - begin)
    return statistics.median(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", type=Path, default=ROOT, metavar="FOLDER", help="a checkout (default: this one)")
    parser.add_argument("--times", action="store_true", help="also time `import sige` and `run.py --help`")
    options = parser.parse_args()
    imports = read_imports(options.tree)
    for package in PACKAGES:
        lines = [len(path.read_text().splitlines()) for path in modules_of(options.tree, package).values()]
        count = f"{len(lines)} files, {statistics.median(lines):.0f} lines at the median, {max(lines)} at most"
        hanging = f"{len(rooms(imports, package))} rooms, {len(arrows(imports, package))} arrows between them"
        print(f"{package + '/':<7} {count}; {hanging}")
    found = circles(imports)
    print(f"circles {len(found)}" + "".join(f"\n        {' '.join(group)}" for group in found))
    if options.times:
        for title, command in (("import sige", ["-c", "import sige"]), ("run.py --help", ["run.py", "--help"])):
            print(f"{title:<14} {_median_time(command, options.tree):.3f} s")


if __name__ == "__main__":
    main()
