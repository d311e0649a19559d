// fill_rows on the CPU: one row after another, vectorised along C.
#include "fill_rows.h"

#include "common/simd.h"

namespace sige::SIGE_CPU_VARIANT {

template <typename T>
static void fill_each_row(const FillRowsParams& params) {
  const T* residual = static_cast<const T*>(params.residual);  // [R, C] or null
#pragma omp parallel for schedule(static) if (params.rows * params.channels > 1 << 16)
  for (int64_t r = 0; r < params.rows; ++r) {
    const int64_t row = r * params.channels;
    const T* bias =
        params.bias ? static_cast<const T*>(params.bias) + bias_offset(params, r, params.sample_rows) : nullptr;  // [C]
    for (int64_t c = 0; c < params.channels; c += kLanes) {
      const int64_t count = params.channels - c;
      Vec value = {};
      if (bias) value += load(bias + c, count);
      if (residual) value += load(residual + row + c, count);
      store(static_cast<T*>(params.out) + row + c, value, count);
    }
  }
}

void fill_rows(const FillRowsParams& params) {
  dispatch(params.dtype, [&](auto tag) { fill_each_row<decltype(tag)>(params); });
}

}  // namespace sige::SIGE_CPU_VARIANT
