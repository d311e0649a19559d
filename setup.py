"""Builds the native libraries and hands them to setuptools. Never imports torch."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tools"))

import native_build  # noqa: E402

OBJECTS = ROOT / "build" / "native"  # kept, so that the next build compiles only what changed


class NinjaBuild(build_ext):
    """One extension stands for all: `sige._host` by name, the op libraries beside it in `sige/lib`."""

    def build_extension(self, ext: Extension) -> None:
        host_module = Path(self.get_ext_fullpath(ext.name)).resolve()
        libraries = host_module.parent / "lib"
        libraries.mkdir(parents=True, exist_ok=True)
        try:
            native_build.build_package(OBJECTS, libraries, host_module)
        except native_build.BuildError as error:
            sys.exit(f"error: {error}")

    def get_outputs(self) -> list[str]:
        host_modules = [Path(output) for output in super().get_outputs()]
        built = [str(path) for module in host_modules for path in sorted((module.parent / "lib").glob("*.so"))]
        return [*map(str, host_modules), *built]

    def copy_extensions_to_source(self) -> None:  # an editable install
        super().copy_extensions_to_source()
        target = ROOT / "sige" / "lib"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(Path(self.build_lib) / "sige" / "lib", target)


setup(ext_modules=[Extension("sige._host", sources=[])], cmdclass={"build_ext": NinjaBuild})
