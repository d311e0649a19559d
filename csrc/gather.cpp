// gather on the CPU: one output row after another, vectorised along C.
#include "gather.h"

#include "common/simd.h"

namespace sige::SIGE_CPU_VARIANT {

template <typename T>
static void transform_row(const GatherParams& params, int64_t b, const T* source,  // [C]
                          T* target) {                                             // [C]
  const int64_t channels = params.source.channels;
  const float* scale = params.scale ? params.scale + b * channels : nullptr;  // [C]
  const float* shift = params.shift ? params.shift + b * channels : nullptr;  // [C]
  for (int64_t c = 0; c < channels; c += kLanes) {
    const int64_t count = channels - c;
    Vec value = load(source + c, count);
    if (scale) value = value * load(scale + c, count) + load(shift + c, count);
    if (params.activation == Activation::kSiLU) value = silu(value);
    store(target + c, value, count);
  }
}

template <typename T>
static void gather_taps(const GatherParams& params, int64_t row, bool copies) {
  const int64_t channels = params.source.channels;
  const GatherRow at = gather_row(params, row);
  T* target = static_cast<T*>(params.out) + row * params.taps * channels;  // [T, C]
  for (int64_t tap = 0; tap < params.taps; ++tap, target += channels) {
    const T* source = params.source.row<T>(at.batch, gather_entry(params, at.first_slot + tap));
    if (!source) {
      memset(target, 0, channels * sizeof(T));
    } else if (copies) {
      memcpy(target, source, channels * sizeof(T));
    } else {
      transform_row(params, at.batch, source, target);
    }
  }
}

template <typename T>
static void gather_rows(const GatherParams& params) {
  const bool copies = !params.scale && params.activation == Activation::kNone;
#pragma omp parallel for schedule(static) if (params.row_count * params.taps * params.source.channels > 1 << 16)
  for (int64_t row = 0; row < params.row_count; ++row) gather_taps<T>(params, row, copies);
}

void gather(const GatherParams& params) {
  dispatch(params.dtype, [&](auto tag) { gather_rows<decltype(tag)>(params); });
}

}  // namespace sige::SIGE_CPU_VARIANT
