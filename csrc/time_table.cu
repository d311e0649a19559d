#include "common/launch.cuh"
#include "time_table.h"

namespace sige::cuda {
namespace {

// ---------------------------------------------------------------------------------------------------------------
// Kernels
// ---------------------------------------------------------------------------------------------------------------

constexpr int kWarp = 32;
constexpr int kColumns = 4;  // per block, a warp each

// One warp per column: a weight row is read once, with all lanes side by side, and multiplies the time of every sample.
template <typename T, int kWidth>
__global__ void __launch_bounds__(kWarp* kColumns) time_table_kernel(const TimeTableParams params) {
  using Vector = Packed<T, kWidth>;
  const int64_t columns = params.firsts[params.layers];
  const int64_t step = static_cast<int64_t>(gridDim.x) * kColumns;
  for (int64_t column = static_cast<int64_t>(blockIdx.x) * kColumns + threadIdx.y; column < columns; column += step) {
    const int64_t layer = layer_of(params, column), channel = column - params.firsts[layer];
    const T* weight = static_cast<const T*>(params.weights[layer]) + channel * params.size;
    const float bias = to_float(static_cast<const T*>(params.biases[layer])[channel]) +
                       to_float(static_cast<const T*>(params.added[layer])[channel]);
    for (int64_t b = 0; b < params.batch; ++b) {
      const T* time = static_cast<const T*>(params.time) + b * params.size;
      float sum = 0.0f;
      for (int64_t e = static_cast<int64_t>(threadIdx.x) * kWidth; e < params.size; e += kWarp * kWidth) {
        float left[kWidth], right[kWidth];
        Vector::load(time + e).unpack(left);
        Vector::load(weight + e).unpack(right);
#pragma unroll
        for (int lane = 0; lane < kWidth; ++lane) sum += left[lane] * right[lane];
      }
      for (int distance = kWarp / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
      if (threadIdx.x == 0) from_float(sum + bias, static_cast<T*>(params.out) + b * columns + column);
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------
// Launchers
// ---------------------------------------------------------------------------------------------------------------

template <typename T, int kWidth>
void launch_table(const TimeTableParams& params, void* stream) {
  const LaunchShape shape = {ceil_div(params.firsts[params.layers], kColumns), dim3(kWarp, kColumns)};
  launch("time_table", time_table_kernel<T, kWidth>, shape, stream, params);
}

// The layers are separate tensors: each must start on a vector's boundary.
template <typename T>
bool all_vectorise(const TimeTableParams& params) {
  bool all = can_vectorise<T>({params.time}, {params.size});
  for (int64_t k = 0; k < params.layers; ++k) all = all && can_vectorise<T>({params.weights[k]}, {});
  return all;
}

}  // namespace

void time_table(const TimeTableParams& params, void* stream) {
  dispatch_dtype(params.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    all_vectorise<T>(params) ? launch_table<T, kVectorWidth<T>>(params, stream) : launch_table<T, 1>(params, stream);
  });
}

}  // namespace sige::cuda
