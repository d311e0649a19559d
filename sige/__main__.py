"""`python -m sige`: what is installed, what was built, what runs."""

from __future__ import annotations

import os
import platform
import sys

import torch

import sige
from sige.ops.native import LIBRARIES, Backend


def main() -> None:
    """Prints one fact a line, then what is missing and what to do about it."""
    facts = [
        ("sige", sige.__version__),
        ("python", platform.python_version()),
        ("torch", torch.__version__),
        ("gpu", _gpu()),
        ("built", _built()),
    ]
    facts += [(f"{backend.device} ops", _in_use(backend)) for backend in sige.ops.backends()]
    for name, value in facts:
        print(f"{name:<9} {value}")
    for backend in sige.ops.backends():
        if not backend.native:
            print(f"\n{backend.device}: the reference runs; {backend.reason}")


def _gpu() -> str:
    if not torch.cuda.is_available():
        return "none"
    major, minor = torch.cuda.get_device_capability()
    return f"{torch.cuda.get_device_name()}, sm_{major}{minor}"


def _built() -> str:
    try:
        from sige import _host
    except ImportError:
        return "nothing (pure Python)"
    libraries = " ".join(path.name for path in sorted(LIBRARIES.glob("*.so"))) or "no op library"
    cuda = f", CUDA sm {_host.cuda_archs} + PTX" if _host.cuda_archs else ", no CUDA"
    compiler = f"gcc {_host.compiler}, against torch {_host.torch_version}"
    return f"{libraries}: CPU {_host.cpu_variants}{cuda} ({compiler})"


def _in_use(backend: Backend) -> str:
    if not backend.native:
        return "reference"
    if backend.device != "CPU":
        return "native"
    from sige import _host

    return f"native, {_host.cpu_variant()}"


if __name__ == "__main__":
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:  # `python -m sige | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
