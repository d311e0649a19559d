"""The small host-side module, built from csrc/host.cpp."""

torch_version: str
cuda_archs: str
cpu_variants: str
compiler: str

def cpu_variant() -> str: ...
