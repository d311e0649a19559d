// The types that every kernel shares: storage types, activations, host/device qualifiers.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define SIGE_HOST_DEVICE __host__ __device__
#else
#define SIGE_HOST_DEVICE
#endif

namespace sige {

enum class DType : int32_t { kFloat32, kFloat16, kBFloat16 };

// The numbers are part of the op schemas (`int activation`); sige/ops/activation.py holds the same table.
enum class Activation : int32_t { kNone = 0, kSiLU = 1 };

constexpr int64_t kMostTerms = 8;  // of a blend; sige/ops/checks.py holds the same number

SIGE_HOST_DEVICE inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace sige
