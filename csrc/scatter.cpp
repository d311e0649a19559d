// scatter on the CPU: one row after another, into any strided layout.
#include "scatter.h"

#include "common/simd.h"

namespace sige::SIGE_CPU_VARIANT {

// Copies the bits of a row, so T is any type of the element's size.
template <typename T>
static void copy_row(const ScatterParams& params, const T* packed,  // [C]
                     T* target) {                                   // channel c at c * stride_c
  if (params.stride_c == 1) {
    memcpy(target, packed, params.channels * sizeof(T));
    return;
  }
  for (int64_t c = 0; c < params.channels; ++c) target[c * params.stride_c] = packed[c];
}

template <typename T>
static void add_row(const ScatterParams& params, const T* packed,  // [C]
                    const T* residual,                             // [C]
                    T* target) {                                   // channel c at c * stride_c
  for (int64_t c = 0; c < params.channels; c += kLanes) {
    const int64_t count = params.channels - c;
    const Vec value = load(packed + c, count) + load(residual + c, count);
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
  // If lines of positions follow one another without a gap, the division in dense_offset is not needed.
  const bool flat = params.stride_h == params.width * params.stride_w;
#pragma omp parallel for schedule(static) if (params.batch * params.rows * params.channels > 1 << 16)
  for (int64_t i = 0; i < params.batch * params.rows; ++i) {
    const int64_t b = i / params.rows, row = i * params.channels;
    const int32_t position = params.index[i - b * params.rows];
    const int64_t offset = flat ? b * params.stride_b + position * params.stride_w : dense_offset(params, b, position);
    T* target = static_cast<T*>(params.dense) + offset;
    residual ? add_row(params, packed + row, residual + row, target) : copy_row(params, packed + row, target);
  }
}

void scatter(const ScatterParams& params) {
  dispatch(params.dtype, [&](auto tag) { scatter_rows<decltype(tag)>(params); });
}

}  // namespace sige::SIGE_CPU_VARIANT
