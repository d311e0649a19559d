// geglu_rows on the CPU: one row after another, vectorised along C.
#include "geglu_rows.h"

#include "common/simd.h"

namespace sige::SIGE_CPU_VARIANT {

template <typename T>
static void gate_each_row(const GegluRowsParams& params) {
  const int64_t channels = params.channels;
#pragma omp parallel for schedule(static) if (params.row_count * channels > 1 << 14)
  for (int64_t r = 0; r < params.row_count; ++r) {
    const T* hidden = static_cast<const T*>(params.rows) + r * 2 * channels;  // [C]
    const T* gate = hidden + channels;                                        // [C]
    T* out = static_cast<T*>(params.out) + r * channels;                      // [C]
    for (int64_t c = 0; c < channels; c += kLanes) {
      const int64_t count = channels - c;
      store(out + c, load(hidden + c, count) * gelu(load(gate + c, count)), count);
    }
  }
}

void geglu_rows(const GegluRowsParams& params) {
  dispatch(params.dtype, [&](auto tag) { gate_each_row<decltype(tag)>(params); });
}

}  // namespace sige::SIGE_CPU_VARIANT
