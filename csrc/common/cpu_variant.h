// The instruction sets that the CPU kernels were compiled for, and the choice of one for this machine.
//
// tools/native_build.py compiles each CPU kernel file once per variant, with -DSIGE_CPU_VARIANT=<name> and the matching
// -march; cpu_kernels.cpp picks one at the first call.
#pragma once

#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace sige {

enum class CpuVariant { kPortable, kAvx2, kAvx512 };

inline const char* cpu_variant_name(CpuVariant variant) {
  switch (variant) {
    case CpuVariant::kAvx512:
      return "avx512";
    case CpuVariant::kAvx2:
      return "avx2";
    case CpuVariant::kPortable:
      break;
  }
  return "portable";
}

inline bool cpu_supports(CpuVariant variant) {
#if defined(__x86_64__)
  if (variant == CpuVariant::kAvx512) return __builtin_cpu_supports("x86-64-v4");
  if (variant == CpuVariant::kAvx2) return __builtin_cpu_supports("x86-64-v3");
#endif
  return variant == CpuVariant::kPortable;
}

// The widest supported variant; SIGE_CPU_VARIANT=portable|avx2|avx512 asks for a narrower one.
inline CpuVariant choose_cpu_variant() {
  const char* wanted = std::getenv("SIGE_CPU_VARIANT");
  for (const CpuVariant variant : {CpuVariant::kAvx512, CpuVariant::kAvx2}) {
    if (!cpu_supports(variant)) continue;
    if (!wanted || !*wanted || !std::strcmp(wanted, cpu_variant_name(variant))) return variant;
  }
  return CpuVariant::kPortable;
}

}  // namespace sige
