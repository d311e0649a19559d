// time_table on the CPU: one dot product after another, with the lanes along E.
#include "time_table.h"

#include "common/simd.h"

namespace sige::SIGE_CPU_VARIANT {

constexpr int64_t kAloneSize = 1 << 20;  // multiply-accumulates up to which one thread is faster than two

template <typename T>
static float dot(const T* left, const T* right, int64_t size) {  // [E] each
  Vec even = {}, odd = {};
  int64_t e = 0;
  for (; e + 2 * kLanes <= size; e += 2 * kLanes) {
    even += load(left + e) * load(right + e);
    odd += load(left + e + kLanes) * load(right + e + kLanes);
  }
  for (; e < size; e += kLanes) even += load(left + e, size - e) * load(right + e, size - e);
  return horizontal_sum(even + odd);
}

template <typename T>
static void make_columns(const TimeTableParams& params) {
  const int64_t columns = params.firsts[params.layers];
#pragma omp parallel for schedule(static) if (params.batch * columns * params.size > kAloneSize)
  for (int64_t column = 0; column < columns; ++column) {
    const int64_t layer = layer_of(params, column), channel = column - params.firsts[layer];
    const T* weight = static_cast<const T*>(params.weights[layer]) + channel * params.size;  // [E]
    const float bias = load(static_cast<const T*>(params.biases[layer]) + channel, 1)[0] +
                       load(static_cast<const T*>(params.added[layer]) + channel, 1)[0];
    for (int64_t b = 0; b < params.batch; ++b) {
      const T* time = static_cast<const T*>(params.time) + b * params.size;  // [E]
      const Vec value = broadcast(dot(time, weight, params.size) + bias);
      store(static_cast<T*>(params.out) + b * columns + column, value, 1);
    }
  }
}

void time_table(const TimeTableParams& params) {
  dispatch(params.dtype, [&](auto tag) { make_columns<decltype(tag)>(params); });
}

}  // namespace sige::SIGE_CPU_VARIANT
