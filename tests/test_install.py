"""Installation: `python -m sige` describes it, and the package works when something is missing."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import sige
from sige.ops import backends

ROOT = Path(__file__).resolve().parent.parent
ONE_GATHER = (
    "import torch, sige; rows = torch.ones(1, 2, 3); index = torch.zeros(4, 9, dtype=torch.int32);"
    "[sige.ops.gather(rows, rows, index) for _ in range(2)]; print('ran')"
)
native = pytest.mark.skipif(not backends()[0].native, reason="the native CPU library is not in use")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], env={**os.environ, **environment}, capture_output=True, text=True, cwd=ROOT
    )


@native
def test_module_prints_what_is_in_use() -> None:
    result = run("-m", "sige")
    assert result.returncode == 0, result.stderr
    facts = dict(line.split(maxsplit=1) for line in result.stdout.splitlines()[:5])
    assert facts["sige"] == sige.__version__
    assert "libsige_cpu.so" in facts["built"]
    assert "CPU ops   native" in result.stdout


@pytest.mark.parametrize("variant", ["portable", "avx2"])
@native
def test_a_narrower_cpu_variant_can_be_asked_for(variant: str) -> None:
    result = run("-m", "sige", SIGE_CPU_VARIANT=variant)
    if f"CPU ops   native, {variant}" not in result.stdout:
        assert variant == "avx2", result.stdout
        pytest.skip("this processor has no AVX2")


def test_without_a_library_the_reference_runs_with_one_warning(tmp_path: Path) -> None:
    result = run("-c", ONE_GATHER, SIGE_LIBRARIES=str(tmp_path), SIGE_BACKEND="native")
    assert result.stdout == "ran\n", result.stderr
    assert result.stderr.count("RuntimeWarning") == 1
    assert "sige runs its slow reference ops on CPU" in result.stderr
    assert "libsige_cpu.so does not exist: reinstall sige" in result.stderr


def test_a_library_that_does_not_load_is_named(tmp_path: Path) -> None:
    (tmp_path / "libsige_cpu.so").write_text("not a library")
    result = run("-m", "sige", SIGE_LIBRARIES=str(tmp_path), SIGE_BACKEND="native")
    assert result.returncode == 0, result.stderr
    assert "CPU ops   reference" in result.stdout
    assert "libsige_cpu.so does not load with torch" in result.stdout


def test_the_reference_on_request_gives_no_warning() -> None:
    result = run("-c", ONE_GATHER, SIGE_BACKEND="reference")
    assert (result.stdout, result.stderr) == ("ran\n", "")


def test_an_unknown_backend_is_named_and_native_taken() -> None:
    result = run("-W", "always", "-c", ONE_GATHER, SIGE_BACKEND="fast")
    assert result.stdout == "ran\n"
    assert "SIGE_BACKEND is 'fast', expected native or reference: taking native" in result.stderr


def test_the_oldest_versions_that_are_tested_are_the_bounds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lists = [project["build-system"]["requires"], project["project"]["dependencies"]]
    extras = project["project"]["optional-dependencies"]
    lists += [extras[name] for name in extras if name != "ray"]  # too large to test
    bounds = {tuple(line.split(">=")) for lines in lists for line in lines if ">=" in line}
    pins = dict(re.findall(r"^([\w-]+)==([\d.]+)$", (ROOT / "constraints-oldest.txt").read_text(), re.MULTILINE))
    assert {name for name, _ in bounds} == set(pins)
    assert [(name, bound) for name, bound in bounds if not f"{pins[name]}.".startswith(f"{bound}.")] == []


def test_import_reads_no_image_library_and_builds_nothing() -> None:
    program = "import sys, sige; print([name for name in ('PIL', 'diffusers', 'ninja') if name in sys.modules])"
    assert run("-c", program).stdout == "[]\n"


@pytest.fixture
def native_build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("native_build", ROOT / "tools" / "native_build.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_build_finds_torch_without_importing_it(native_build: ModuleType) -> None:
    import torch

    assert native_build.find_torch().version == torch.__version__
    build = f"import sys; sys.path.insert(0, {str(ROOT / 'tools')!r}); import native_build;"
    build += "native_build.find_torch(); print('torch' in sys.modules)"
    assert run("-c", build).stdout == "False\n"


def test_build_without_torch_says_install_torch_first(
    native_build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(native_build.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(native_build.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(native_build.BuildError, match="install torch first"):
        native_build.find_torch()


def test_build_against_an_old_torch_is_refused(
    native_build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    header = tmp_path / "include" / "torch" / "csrc" / "stable" / "library.h"
    header.parent.mkdir(parents=True)
    header.touch()
    (tmp_path / "version.py").write_text("__version__ = '2.10.1+cu128'\n")
    monkeypatch.setenv("SIGE_TORCH_DIR", str(tmp_path))
    with pytest.raises(native_build.BuildError, match=r"needs torch >= 2.11, found 2.10.1\+cu128"):
        native_build.find_torch()


def test_cuda_switch(native_build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_build, "_find_nvcc", lambda: None)
    assert native_build.find_cuda() is None
    monkeypatch.setenv("SIGE_CUDA", "1")
    with pytest.raises(native_build.BuildError, match="SIGE_CUDA=1, but no nvcc was found"):
        native_build.find_cuda()
    monkeypatch.setenv("SIGE_CUDA", "yes")
    with pytest.raises(native_build.BuildError, match="expected auto, 0 or 1"):
        native_build.find_cuda()


def test_cuda_architectures(native_build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_build, "_find_nvcc", lambda: Path("/usr/bin/nvcc"))
    monkeypatch.setattr(native_build, "_cuda_home", lambda nvcc: Path("/usr"))
    monkeypatch.delenv("SIGE_CUDA", raising=False)
    monkeypatch.setenv("SIGE_CUDA_ARCHS", "8.9;9.0a;8.0")
    cuda = native_build.find_cuda()
    assert cuda.gencode == [
        "-gencode=arch=compute_80,code=[sm_80,sm_89]",
        "-gencode=arch=compute_90a,code=[sm_90a]",
        "-gencode=arch=compute_90a,code=compute_90a",
    ]
    monkeypatch.setenv("SIGE_CUDA_ARCHS", "hopper")
    with pytest.raises(native_build.BuildError, match="expected numbers such as 80;86;89;90"):
        native_build.find_cuda()
