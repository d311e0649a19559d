#include "common/fast_divisor.h"
#include "common/row_tiling.cuh"
#include "fill_rows.h"

namespace sige::cuda {
namespace {

// ---------------------------------------------------------------------------------------------------------------
// Kernels
// ---------------------------------------------------------------------------------------------------------------

constexpr int kFillBlocksPerSm = 6;  // up to 40 registers: left to itself, the compiler takes 32 and spills

template <typename T, int kWidth>
__global__ void __launch_bounds__(kRowThreads, kFillBlocksPerSm)
    fill_rows_kernel(const FillRowsParams params, const RowTiling tiling, const FastDivisor sample_rows) {
  using Vector = Packed<T, kWidth>;
  const int64_t vector = static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x;
  if (vector >= tiling.vectors) return;
  const int64_t channel = vector * kWidth;
  const T* biases = params.bias ? static_cast<const T*>(params.bias) + channel : nullptr;
  float bias[kWidth] = {};
  if (biases) Vector::load(biases).unpack(bias);

  for (int64_t block = blockIdx.x; block < tiling.blocks; block += gridDim.x) {
    const int64_t first = block * tiling.rows_per_block;
    const int32_t count = static_cast<int32_t>(min(tiling.rows - first, static_cast<int64_t>(tiling.rows_per_block)));
#pragma unroll 4
    for (int32_t i = threadIdx.y; i < count; i += blockDim.y) {
      const int64_t row = first + i, offset = row * params.channels + channel;
      float lanes[kWidth] = {};
      if (biases && params.bias_stride) Vector::load(biases + bias_offset(params, row, sample_rows)).unpack(bias);
      if (params.residual) Vector::load(static_cast<const T*>(params.residual) + offset).unpack(lanes);
#pragma unroll
      for (int lane = 0; lane < kWidth; ++lane) lanes[lane] += bias[lane];
      Vector::pack(lanes).store(static_cast<T*>(params.out) + offset);
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------
// Launchers
// ---------------------------------------------------------------------------------------------------------------

template <typename T, int kWidth>
void launch_fill(const FillRowsParams& params, void* stream) {
  const RowTiling tiling = tile_rows(params.rows, params.channels / kWidth);
  launch("fill_rows", fill_rows_kernel<T, kWidth>, tiling.shape(), stream, params, tiling,
         FastDivisor(params.sample_rows));
}

}  // namespace

void fill_rows(const FillRowsParams& params, void* stream) {
  dispatch_dtype(params.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    can_vectorise<T>({params.bias, params.residual, params.out}, {params.channels, params.bias_stride})
        ? launch_fill<T, kVectorWidth<T>>(params, stream)
        : launch_fill<T, 1>(params, stream);
  });
}

}  // namespace sige::cuda
