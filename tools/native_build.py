"""Builds the native libraries with ninja: the list of source files, their flags, and the libraries they go into.

`setup.py` uses it for the package; the command line makes the test builds:

    python tools/native_build.py --out build/shim --target shim [--sanitize]

torch is never imported: its headers and libraries are found by path, so the build needs no GPU, takes seconds, and
works in pip's isolated build environment.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
OPS = (
    "gather",
    "linear",
    "linear_stack",
    "geglu_rows",
    "time_table",
    "sparse_conv2d",
    "scatter",
    "blend_rows",
    "group_stats",
    "norm_affine",
    "block_attention",
)
# Each has a .cpp and a .cu file.
KERNELS = (
    "gather",
    "scatter",
    "fill_rows",
    "geglu_rows",
    "time_table",
    "blend_rows",
    "group_stats",
    "norm_affine",
    "block_attention",
    "row_product",
)
CUDA_KERNELS = (*KERNELS, "tensor_attention", "index_check")
CPU_VARIANTS = {"portable": (), "avx2": ("-march=x86-64-v3",), "avx512": ("-march=x86-64-v4",)}
DEFAULT_CUDA_ARCHS = "80;86;89;90"
OLDEST_TORCH = (2, 11)
TORCH_TARGET = "-DTORCH_TARGET_VERSION=0x020b000000000000"

WARNINGS = ("-Wall", "-Wextra", "-Wno-psabi", "-Wno-maybe-uninitialized")
COMMON = ("-fPIC", "-fvisibility=hidden", *WARNINGS)
SANITIZE = (
    "-O1",
    "-g",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=undefined",
    "-fno-omit-frame-pointer",
)


class BuildError(Exception):
    """Raised when the user has to mend something before SIGE can be built; the message is one line."""


@dataclass(frozen=True)
class Torch:
    """The torch installation that the libraries are compiled against."""

    directory: Path
    version: str

    @property
    def include_flags(self) -> list[str]:
        return ["-isystem", str(self.directory / "include")]


@dataclass(frozen=True)
class Cuda:
    """The CUDA toolkit and the GPU architectures to compile for."""

    nvcc: Path
    home: Path
    archs: tuple[str, ...]

    @property
    def gencode(self) -> list[str]:
        newest = max(self.archs, key=arch_number)
        return [*gencode_flags(self.archs), f"-gencode=arch=compute_{newest},code=compute_{newest}"]


def arch_number(arch: str) -> int:
    """`90a` -> 90."""
    return int(re.match(r"\d+", arch).group())  # type: ignore[union-attr]


def gencode_flags(archs: Sequence[str]) -> list[str]:
    """nvcc's flags for machine code. Architectures of one major version share the PTX of the oldest of them: no kernel
    asks for the minor version, and PTX takes most of the time. An architecture with a letter has its own PTX."""
    families: dict[str, list[str]] = {}
    for arch in sorted(archs, key=arch_number):
        families.setdefault(arch[:-1] if arch.isdigit() else arch, []).append(arch)
    return [f"-gencode=arch=compute_{f[0]},code=[{','.join(f'sm_{arch}' for arch in f)}]" for f in families.values()]


def find_torch() -> Torch:
    """The torch to compile against: in `SIGE_TORCH_DIR`, else beside this Python, else where an import finds it."""
    candidates = [Path(os.environ["SIGE_TORCH_DIR"])] if os.environ.get("SIGE_TORCH_DIR") else []
    candidates.append(Path(sysconfig.get_path("purelib")) / "torch")
    spec = importlib.util.find_spec("torch")
    if spec and spec.origin:
        candidates.append(Path(spec.origin).parent)
    for directory in candidates:
        if (directory / "include" / "torch" / "csrc" / "stable" / "library.h").is_file():
            return _checked_torch(directory)
    raise BuildError(
        "SIGE is compiled against torch, and no torch >= 2.11 was found: install torch first "
        "(pip install torch), or set SIGE_TORCH_DIR to its folder; under uv, add --no-build-isolation"
    )


def _checked_torch(directory: Path) -> Torch:
    match = re.search(r"__version__ = '([^']+)'", (directory / "version.py").read_text())
    version = match.group(1) if match else "0.0"
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_TORCH:
        raise BuildError(f"SIGE needs torch >= 2.11, found {version} in {directory}: upgrade torch first")
    return Torch(directory, version)


def find_cuda() -> Cuda | None:
    """The toolkit to build with, or None: `SIGE_CUDA` is auto (build where there is an nvcc), 0 or 1."""
    wanted = os.environ.get("SIGE_CUDA", "auto")
    if wanted not in ("auto", "0", "1"):
        raise BuildError(f"SIGE_CUDA is {wanted!r}, expected auto, 0 or 1")
    if wanted == "0":
        return None
    nvcc = _find_nvcc()
    if nvcc is None:
        if wanted == "1":
            raise BuildError("SIGE_CUDA=1, but no nvcc was found: install the CUDA toolkit or set CUDA_HOME")
        return None
    archs = tuple(re.split(r"[;, ]+", os.environ.get("SIGE_CUDA_ARCHS", DEFAULT_CUDA_ARCHS).replace(".", "")))
    if not all(re.fullmatch(r"\d+[a-z]?", arch) for arch in archs):
        raise BuildError(f"SIGE_CUDA_ARCHS is {';'.join(archs)!r}, expected numbers such as 80;86;89;90")
    return Cuda(nvcc, _cuda_home(nvcc), archs)


def _find_nvcc() -> Path | None:
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    names = [Path(home) / "bin" / "nvcc" for home in homes if home]
    if found := shutil.which("nvcc"):
        names.append(Path(found))
    return next((name for name in names if name.is_file()), None)


def _cuda_home(nvcc: Path) -> Path:
    """The toolkit's folder as nvcc itself reports it; the nvcc on the PATH may be a wrapper script in another place."""
    dryrun = subprocess.run(
        [str(nvcc), "-dryrun", "-c", "-x", "cu", "/dev/null", "-o", "/dev/null"],
        capture_output=True,
        text=True,
    )
    match = re.search(r"^#\$ TOP=(.+)$", dryrun.stderr, re.MULTILINE)
    return Path(match.group(1).strip()).resolve() if match else nvcc.resolve().parent.parent


@dataclass
class NinjaFile:
    """The text of a build.ninja: compile edges, link edges."""

    folder: Path
    lines: list[str] = field(default_factory=lambda: [_NINJA_RULES])

    def compile(self, rule: str, source: Path, tag: str, flags: list[str]) -> Path:
        target = self.folder / "objects" / f"{source.stem}.{source.suffix[1:]}.{tag}.o"
        self.lines.append(f"build {_escape(target)}: {rule} {_escape(source)}\n  flags = {_join(flags)}\n")
        return target

    def link(self, objects: list[Path], target: Path, flags: list[str]) -> Path:
        inputs = " ".join(_escape(path) for path in objects)
        self.lines.append(f"build {_escape(target)}: link {inputs}\n  flags = {_join(flags)}\n")
        return target

    def run(self, verbose: bool = False) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "build.ninja").write_text("\n".join(self.lines))
        command = [_ninja(), "-C", str(self.folder), "-v" if verbose else "--quiet"]
        if jobs := os.environ.get("MAX_JOBS"):
            command += ["-j", jobs]
        if subprocess.run(command).returncode != 0:
            raise BuildError(f"compiling SIGE failed; the messages above say where (build folder {self.folder})")


_NINJA_RULES: str = f"""ninja_required_version = 1.5
rule cxx
  command = {os.environ.get("CXX", "g++")} -MMD -MF $out.d $flags -c $in -o $out
  depfile = $out.d
  deps = gcc
rule nvcc
  command = $nvcc -MMD -MF $out.d $flags -c $in -o $out
  depfile = $out.d
  deps = gcc
rule link
  command = {os.environ.get("CXX", "g++")} -shared $in -o $out $flags
"""


def _escape(path: Path | str) -> str:
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def _join(flags: list[str]) -> str:
    return shlex.join(flags).replace("$", "$$")


def _ninja() -> str:
    if found := shutil.which("ninja"):
        return found
    if importlib.util.find_spec("ninja"):
        import ninja

        return str(Path(ninja.BIN_DIR) / "ninja")
    raise BuildError("ninja was not found: pip install ninja")


def _cpu_variants() -> dict[str, tuple[str, ...]]:
    if platform.machine() in ("x86_64", "AMD64"):
        return CPU_VARIANTS
    return {"portable": ()}


def _op_objects(build: NinjaFile, torch: Torch, tag: str, defines: list[str], optimise: list[str]) -> list[Path]:
    flags = _op_flags(torch, defines, optimise)
    return [build.compile("cxx", CSRC / f"{op}_op.cpp", tag, flags) for op in OPS]


def _op_flags(torch: Torch, defines: list[str], optimise: list[str]) -> list[str]:
    return ["-std=c++20", *optimise, *COMMON, TORCH_TARGET, *defines, f"-I{CSRC}", *torch.include_flags]


def _torch_link_flags(build: NinjaFile, torch: Torch, *names: str) -> list[str]:
    """Flags that link torch by soname only. A library that this torch lacks (CUDA's, in a CPU torch) gets a stub."""
    flags = ["-Wl,--no-as-needed", f"-L{torch.directory / 'lib'}", f"-L{build.folder}"]
    for name in names:
        if not (torch.directory / "lib" / f"lib{name}.so").is_file():
            stub = build.folder / f"lib{name}.so"
            build.folder.mkdir(parents=True, exist_ok=True)
            soname = f"-Wl,-soname,lib{name}.so"
            subprocess.run(["gcc", "-shared", soname, "-x", "c", os.devnull, "-o", str(stub)], check=True)
        flags.append(f"-l{name}")
    return flags


def add_cpu_library(build: NinjaFile, torch: Torch, target: Path, sanitize: bool = False) -> None:
    """Adds `libsige_cpu.so`: each kernel once per instruction set, the ops, the choice between the variants."""
    optimise = [*SANITIZE] if sanitize else ["-O3"]
    variants = {"portable": ()} if sanitize else _cpu_variants()
    one_variant = ["-DSIGE_ONE_CPU_VARIANT"] if len(variants) == 1 else []
    kernel_flags = ["-std=c++17", *optimise, *COMMON, "-fopenmp", "-mprefer-vector-width=512", f"-I{CSRC}"]
    if platform.machine() not in ("x86_64", "AMD64"):
        kernel_flags.remove("-mprefer-vector-width=512")
    objects = _op_objects(build, torch, "cpu", [], optimise)
    for variant, isa in variants.items():
        flags = [*kernel_flags, *isa, f"-DSIGE_CPU_VARIANT={variant}"]
        objects += [build.compile("cxx", CSRC / f"{kernel}.cpp", variant, flags) for kernel in KERNELS]
    plain = ["-std=c++17", *optimise, *COMMON, *one_variant, f"-I{CSRC}"]
    objects += [build.compile("cxx", CSRC / name, "cpu", plain) for name in ("cpu_kernels.cpp", "index_check.cpp")]
    link = [*_torch_link_flags(build, torch, "torch_cpu"), "-fopenmp"]
    build.link(objects, target, [*link, *(["-fsanitize=address,undefined"] if sanitize else [])])


def add_cuda_library(build: NinjaFile, torch: Torch, cuda: Cuda, target: Path) -> None:
    """Adds `libsige_cuda.so`: the CUDA kernels and the same ops compiled for them. Needs no GPU and no CUDA torch."""
    build.lines[0] = build.lines[0].replace("$nvcc", _escape(cuda.nvcc))
    nvcc_flags = ["-O3", "-std=c++17", "-Xcompiler", "-fPIC,-fvisibility=hidden", *cuda.gencode, f"-I{CSRC}"]
    objects = [build.compile("nvcc", CSRC / f"{kernel}.cu", "cuda", nvcc_flags) for kernel in CUDA_KERNELS]
    objects += _op_objects(build, torch, "cuda", ["-DSIGE_CUDA", "-DUSE_CUDA"], ["-O3"])
    link = [*_torch_link_flags(build, torch, "torch_cpu", "torch_cuda")]
    link += [f"-L{cuda.home / 'lib64'}", "-lcudart_static", "-ldl", "-lrt", "-lpthread"]
    build.link(objects, target, link)


def add_shim_library(build: NinjaFile, torch: Torch, target: Path, sanitize: bool = False) -> None:
    """Adds `libsige_shim.so` for the tests: the CUDA kernels compiled for the CPU (tests/shim), as `sige_shim::*`."""
    shim = ROOT / "tests" / "shim"
    optimise = [*SANITIZE] if sanitize else ["-O2"]
    flags = ["-std=c++17", *optimise, *COMMON, "-Wno-unknown-pragmas", "-x", "c++", "-DSIGE_CUDA_SHIM"]
    flags.append("-DSIGE_FULL_GRID=8")  # so that attention splits small shapes in every way
    flags += [f"-I{CSRC}", f"-I{shim / 'include'}"]
    if sanitize:
        flags.append("-DSIGE_MAX_BLOCKS=3")  # so that kernels step through their work
    objects = [build.compile("cxx", CSRC / f"{kernel}.cu", "shim", flags) for kernel in CUDA_KERNELS]
    own = ("cuda_shim.cpp", "tensor_core_check.cu", "row_product_check.cpp", "last_block_check.cpp")
    objects += [build.compile("cxx", shim / name, "shim", flags) for name in own]
    for_ops = ["-DSIGE_CUDA_SHIM"]
    objects.append(build.compile("cxx", shim / "launch_plans_check.cpp", "shim", _op_flags(torch, for_ops, optimise)))
    objects += _op_objects(build, torch, "shim", for_ops, optimise)
    link = _torch_link_flags(build, torch, "torch_cpu")
    build.link(objects, target, [*link, *(["-fsanitize=address,undefined"] if sanitize else [])])


def add_host_module(build: NinjaFile, target: Path, torch: Torch, cuda: Cuda | None) -> None:
    """Adds `sige._host`, which tells `python -m sige` what was built; it uses pybind11 and no torch."""
    import pybind11

    includes = [f"-I{CSRC}", "-isystem", sysconfig.get_path("include"), "-isystem", pybind11.get_include()]
    facts = {
        "SIGE_TORCH_VERSION": torch.version,
        "SIGE_CUDA_ARCHS": " ".join(cuda.archs) if cuda else "",
        "SIGE_CPU_VARIANTS": " ".join(_cpu_variants()),
    }
    defines = [f'-D{name}="{value}"' for name, value in facts.items()]
    flags = ["-std=c++17", "-O2", *COMMON, *includes, *defines]
    objects = [build.compile("cxx", CSRC / "host.cpp", "host", flags)]
    build.link(objects, target, [])


def build_package(folder: Path, libraries: Path, host_module: Path) -> None:
    """Builds the package's libraries. `folder` keeps the objects, so the next build compiles changed files only."""
    torch, cuda = find_torch(), find_cuda()
    build = NinjaFile(folder)
    add_cpu_library(build, torch, libraries / "libsige_cpu.so")
    if cuda:
        add_cuda_library(build, torch, cuda, libraries / "libsige_cuda.so")
    else:
        (libraries / "libsige_cuda.so").unlink(missing_ok=True)
    add_host_module(build, host_module, torch, cuda)
    build.run(verbose=bool(os.environ.get("SIGE_VERBOSE")))


def main() -> None:
    parser = argparse.ArgumentParser(description="Build SIGE's native libraries for the tests.")
    parser.add_argument("--target", choices=("cpu", "shim"), required=True, help="cpu kernels, or the CUDA shim")
    parser.add_argument("--out", type=Path, required=True, help="folder for objects and the library")
    parser.add_argument("--sanitize", action="store_true", help="with AddressSanitizer and UBSan")
    arguments = parser.parse_args()
    folder = arguments.out.resolve()
    build = NinjaFile(folder)
    add = add_cpu_library if arguments.target == "cpu" else add_shim_library
    add(build, find_torch(), folder / f"libsige_{arguments.target}.so", sanitize=arguments.sanitize)
    build.run()


if __name__ == "__main__":
    try:
        main()
    except BuildError as error:
        sys.exit(f"error: {error}")
