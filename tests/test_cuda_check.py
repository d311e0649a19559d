"""`make cuda-check` can fail: kernels that break each of its rules, compiled by nvcc, and one that breaks none."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parent.parent / "tools"
sys.path.insert(0, str(TOOLS))  # as where `python tools/cuda_check.py` runs

import cuda_check  # noqa: E402
import cuda_rules  # noqa: E402
import sass  # noqa: E402

KERNELS = r"""
template <typename T, int kWidth>
__global__ void sound_kernel(const float4* from, float4* to) { to[threadIdx.x] = __ldg(from + threadIdx.x); }
template __global__ void sound_kernel<float, 4>(const float4*, float4*);

template <typename T, int kWidth>
__global__ void narrow_store_kernel(const float4* from, volatile float* to) {
  const float4 value = __ldg(from + threadIdx.x);
  to[0] = value.x; to[1] = value.y; to[2] = value.z; to[3] = value.w;
}
template __global__ void narrow_store_kernel<float, 4>(const float4*, volatile float*);

template <typename T, int kWidth>
__global__ void narrow_load_kernel(const volatile float* from, float4* to) {
  to[0] = make_float4(from[0], from[1], from[2], from[3]);
}
template __global__ void narrow_load_kernel<float, 4>(const volatile float*, float4*);

__global__ void local_kernel(float* to, const int* at) {
  float values[32];
  for (int i = 0; i < 32; ++i) values[i] = to[i];
  for (int i = 0; i < 32; ++i) values[at[i]] += values[at[i + 1]];
  to[threadIdx.x] = values[at[threadIdx.x]];
}

__global__ void shared_kernel(float* to) {
  extern __shared__ float tile[];
  tile[threadIdx.x] = to[threadIdx.x];
  __syncthreads();
  to[threadIdx.x] = tile[threadIdx.x ^ 1];
}

__global__ void false_mma_kernel(float* to) { to[threadIdx.x] *= 2.0f; }

__global__ void true_mma_kernel(float* c, const unsigned* a) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(a[4]), "r"(a[5]));
}
"""
DISASSEMBLY = """
	.target	sm_90
.text._Z6kernelPf:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/               @P0 LDG.E.128.CONSTANT R8, desc[UR12][R24.64] ;
        /*0020*/              @!P0 LDG.E.U16.CONSTANT R8, desc[UR12][R24.64] ;
        /*0030*/              @!UP0 LDGSTS.E.BYPASS.LTC128B.64 [R3], desc[UR4][R6.64] ;
        /*0040*/                   STG.E desc[UR12][R8.64+0x4], R11 ;
        /*0050*/                   LDL.64 R2, [R1] ;
        /*0060*/                   HMMA.16816.F32.BF16 R4, R8, R2, R4 ;
        /*0070*/                   CALL.REL.NOINC `($__internal_0_$__cuda_sm20_div_s64) ;
        /*0080*/                   NOP ;
.text._Z5otherv:
        /*0000*/                   EXIT ;
"""
PTX = """
.extern .shared .align 16 .b8 tile[];
.visible .entry first(
	.param .u64 first_param_0
) { mov.u32 %r1, tile; }
.visible .entry second(
	.param .u64 second_param_0
) { mov.u32 %r1, tile_of_another_name; }
"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], cuda_rules.KernelReport]:
    """The kernels above, by name and architecture."""
    try:
        tools = cuda_check.find_tools()
    except cuda_check.MissingToolError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("kernels")
    (folder / "kernels.cu").write_text(KERNELS)
    report = cuda_check.compile_file(tools, folder / "kernels.cu", folder, ("86", "90"))
    assert not report.complaints
    return {(kernel.kernel, kernel.arch): kernel for kernel in report.kernels}


@pytest.mark.parametrize("arch", ["sm_86", "sm_90"])
@pytest.mark.parametrize(
    ("kernel", "sentence"),
    [
        ("sound_kernel<float, 4>", None),
        ("true_mma_kernel", None),
        ("narrow_store_kernel<float, 4>", r"has stores of global memory narrower than 128 bits \(4 of 32 bits\): use"),
        ("narrow_store_kernel<float, 4>", "has no 128-bit stores of global memory"),
        ("narrow_load_kernel<float, 4>", r"has loads of global memory narrower than 128 bits \(4 of 32 bits\): use"),
        ("narrow_load_kernel<float, 4>", "has no 128-bit loads of global memory"),
        ("local_kernel", r"uses local memory \(\d+ LDL and STL, 0 bytes spilled\): use fewer registers"),
        ("shared_kernel", "uses dynamic shared memory: say how much in DYNAMIC_SHARED"),
        ("false_mma_kernel", "has no tensor-core instruction, which its name or TENSOR_CORE_KERNELS claims"),
    ],
)
def test_rule(
    reports: dict[tuple[str, str], cuda_rules.KernelReport], kernel: str, arch: str, sentence: str | None
) -> None:
    found = cuda_rules.findings(reports[kernel, arch])
    if sentence is None:
        assert found == []
    else:
        assert any(re.match(rf"kernels.cu: {re.escape(kernel)} on {arch} {sentence}", line) for line in found), found


def test_shared_memory_that_only_a_large_gpu_has(
    reports: dict[tuple[str, str], cuda_rules.KernelReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cuda_rules.DYNAMIC_SHARED, "shared_kernel", 100 * 1024)
    assert cuda_rules.findings(reports["shared_kernel", "sm_90"]) == []
    (sentence,) = cuda_rules.findings(reports["shared_kernel", "sm_86"])
    assert "takes 102400 bytes of shared memory, and a block has 101376 at most: use smaller tiles" in sentence


def test_dynamic_shared_memory_is_that_of_the_tiles(tmp_path: Path) -> None:
    """g++ compares the table with the source, through the shim's headers."""
    bytes_of = {
        r"block_attention_kernel<\.\*, (\d+)>": "Tile<{}>::kSharedBytes",
        r"tensor_attention_kernel<\.\*, (TensorTile<.*>)>": "{}::kSharedBytes",
        r"row_product_kernel<(ProductTile<.*>), \.\*>": "{}::shared_bytes(sige::kMostProductTaps)",
    }
    includes = ("attention_tile", "tensor_attention_tile", "product_tile")
    lines = [*(f'#include "common/{name}.cuh"' for name in includes), "using namespace sige::cuda;"]
    for kernel, size in cuda_rules.DYNAMIC_SHARED.items():
        ((match, expression),) = [(m, form) for p, form in bytes_of.items() if (m := re.fullmatch(p, kernel))]
        lines.append(f"static_assert({expression.format(match.group(1))} == {size});")
    (tmp_path / "sizes.cpp").write_text("\n".join(lines))
    headers = ["-I", str(TOOLS.parent / "csrc"), "-I", str(TOOLS.parent / "tests" / "shim" / "include")]
    command = ["g++", "-std=c++17", "-fsyntax-only", "-DSIGE_CUDA_SHIM", *headers, str(tmp_path / "sizes.cpp")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_kernel_of_the_table_without_tensor_cores(
    reports: dict[tuple[str, str], cuda_rules.KernelReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_rules, "TENSOR_CORE_KERNELS", ("local_kernel", "sound_kernel<.*>"))
    (sentence,) = cuda_rules.findings(reports["sound_kernel<float, 4>", "sm_90"])
    assert "has no tensor-core instruction" in sentence


def test_narrow_accesses_have_a_reason_and_a_limit(
    reports: dict[tuple[str, str], cuda_rules.KernelReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = reports["narrow_store_kernel<float, 4>", "sm_90"]
    four = cuda_rules.Narrow("narrow_store_kernel<.*>", "stores", 32, 4, "a test")
    monkeypatch.setattr(cuda_rules, "NARROW", (four,))
    assert cuda_rules.findings(kernel) == []
    monkeypatch.setattr(cuda_rules, "NARROW", (replace(four, most=3),))
    (sentence,) = cuda_rules.findings(kernel)
    assert sentence.endswith("NARROW of tools/cuda_rules.py allows 3 of 32 bits (a test)")


def test_a_table_names_kernels_that_exist(
    reports: dict[tuple[str, str], cuda_rules.KernelReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_rules, "TENSOR_CORE_KERNELS", ("true_mma_kernel", "gone_kernel"))
    stale = cuda_rules.stale_entries(list(reports.values()))
    assert "tools/cuda_rules.py: no kernel is called gone_kernel: remove or correct the entry" in stale
    assert not any("true_mma_kernel" in sentence for sentence in stale)


def test_a_warning_fails(tmp_path: Path) -> None:
    try:
        tools = cuda_check.find_tools()
    except cuda_check.MissingToolError as error:
        pytest.skip(str(error))
    source = tmp_path / "unused.cu"
    source.write_text("__global__ void kernel() { int unused; }\n")
    report = cuda_check.compile_file(tools, source, tmp_path, ("90",))
    assert any("unused.cu" in line and "never referenced" in line for line in cuda_check.failures([report], False))


def test_every_release_architecture_is_checked() -> None:
    assert cuda_check.ARCHITECTURES == tuple(cuda_check.DEFAULT_CUDA_ARCHS.split(";"))
    assert {f"sm_{arch}" for arch in cuda_check.ARCHITECTURES} <= set(cuda_rules.SHARED_LIMITS)


def test_instructions_are_counted() -> None:
    code = sass.parse(DISASSEMBLY)["_Z6kernelPf"]
    assert code.instructions == 8  # NOP does not count
    assert code.loads == {128: 1, 64: 1, 16: 1}
    assert code.stores == {32: 1}
    assert (code.local, code.tensor, code.calls) == (1, 1, 1)
    assert sass.parse(DISASSEMBLY)["_Z5otherv"].instructions == 1


def test_short_names_of_templates() -> None:
    name = "void sige::cuda::(anonymous namespace)::f<__half, sige::cuda::Tile<48, (bool)1> >(sige::Params, long)"
    assert cuda_check.shorten(name) == "f<fp16, Tile<48, 1>>"


def test_users_of_dynamic_shared_memory() -> None:
    assert sass.dynamic_shared_users(PTX) == {"first"}
    assert sass.dynamic_shared_users(PTX.replace(".extern .shared .align 16 .b8 tile[];", "")) == set()


def test_missing_tools_are_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cuda_check, "find_nvcc", lambda: "/nowhere/nvcc")
    monkeypatch.setattr(cuda_check, "find_nvdisasm", lambda nvcc: None)
    assert cuda_check.main([]) == 2
    assert "nvdisasm not found: pip install -c constraints.txt nvidia-cuda-nvdisasm" in capsys.readouterr().err
