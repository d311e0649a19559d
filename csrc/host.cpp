// sige._host: a small host-side module that tells what was built and which CPU kernels this machine runs.
#include <pybind11/pybind11.h>

#include "common/cpu_variant.h"

PYBIND11_MODULE(_host, m) {
  m.doc() = "Build information of SIGE's native libraries.";
  m.attr("torch_version") = SIGE_TORCH_VERSION;
  m.attr("cuda_archs") = SIGE_CUDA_ARCHS;
  m.attr("cpu_variants") = SIGE_CPU_VARIANTS;
  m.attr("compiler") = __VERSION__;
  m.def(
      "cpu_variant", [] { return sige::cpu_variant_name(sige::choose_cpu_variant()); },
      "The CPU kernels in use: avx512, avx2 or portable (SIGE_CPU_VARIANT asks for a narrower one).");
}
