// scatter on the CPU: one row after another, into any strided layout.
#include "scatter.h"

#include "common/simd.h"

namespace sige::SIGE_CPU_VARIANT {

template <typename T>
static void scatter_row(const ScatterParams& params, const T* packed,  // [C]
                        const T* residual,                             // [C] or null
                        T* target) {                                   // channel c at c * stride_c
  for (int64_t c = 0; c < params.channels; c += kLanes) {
    const int64_t count = params.channels - c;
    Vec value = load(packed + c, count);
    if (residual) value += load(residual + c, count);
    if (params.stride_c == 1) {
      store(target + c, value, count);
      continue;
    }
    T lanes[kLanes];
    store(lanes, value);
    for (int64_t lane = 0; lane < kLanes && lane < count; ++lane) target[(c + lane) * params.stride_c] = lanes[lane];
  }
}

template <typename T>
static void scatter_rows(const ScatterParams& params) {
  const T* packed = static_cast<const T*>(params.packed);      // [B, N, C]
  const T* residual = static_cast<const T*>(params.residual);  // [B, N, C] or null
#pragma omp parallel for schedule(static) if (params.batch * params.rows * params.channels > 1 << 14)
  for (int64_t i = 0; i < params.batch * params.rows; ++i) {
    const int64_t row = i * params.channels;
    T* target = static_cast<T*>(params.dense) + dense_offset(params, i / params.rows, params.index[i % params.rows]);
    scatter_row(params, packed + row, residual ? residual + row : nullptr, target);
  }
}

void scatter(const ScatterParams& params) {
  dispatch(params.dtype, [&](auto tag) { scatter_rows<decltype(tag)>(params); });
}

}  // namespace sige::SIGE_CPU_VARIANT
