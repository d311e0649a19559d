// blend_rows on the CPU: one output row after another, vectorised along C.
#include "blend_rows.h"

#include "common/simd.h"

namespace sige::SIGE_CPU_VARIANT {

template <typename T>
static void blend_each_row(const BlendRowsParams& params) {
#pragma omp parallel for schedule(static) if (params.batch * params.row_count * params.channels > 1 << 16)
  for (int64_t row = 0; row < params.batch * params.row_count; ++row) {
    const int64_t source = source_offset(params, row, params.row_count);
    T* out = static_cast<T*>(params.out) + row * params.channels;  // [C]
    for (int64_t c = 0; c < params.channels; c += kLanes) {
      const int64_t count = params.channels - c;
      Vec total = {};
      for (int64_t k = 0; k < params.terms; ++k) {
        const auto weight = static_cast<float>(params.weights[k]);
        if (weight != 0.0f) total += weight * load(static_cast<const T*>(params.rows[k]) + source + c, count);
      }
      store(out + c, total, count);
    }
  }
}

void blend_rows(const BlendRowsParams& params) {
  dispatch(params.dtype, [&](auto tag) { blend_each_row<decltype(tag)>(params); });
}

}  // namespace sige::SIGE_CPU_VARIANT
