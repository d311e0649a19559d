#include "common/gelu.h"
#include "common/row_tiling.cuh"
#include "geglu_rows.h"

namespace sige::cuda {
namespace {

// ---------------------------------------------------------------------------------------------------------------
// Kernels
// ---------------------------------------------------------------------------------------------------------------

// x times the share of a normal distribution below x, as in common/simd.h. With erfcf in place of the polynomial the
// kernel has half as many instructions again.
__device__ float gelu(float x) {
  const float size = fminf(fabsf(x), 40.0f);
  const float z = size * 0.70710678f;
  const float beyond = scaled_erfc(__fdividef(1.0f, 1.0f + z * 0.47f)) * expf(-z * z);
  return (x < 0.0f ? 0.0f : x) - size * beyond;
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kRowThreads) geglu_rows_kernel(const GegluRowsParams params, const RowTiling tiling) {
  using Vector = Packed<T, kWidth>;
  const int64_t vector = static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x;
  if (vector >= tiling.vectors) return;

  for (int64_t block = blockIdx.x; block < tiling.blocks; block += gridDim.x) {
    const int64_t first = block * tiling.rows_per_block;
    const int64_t last = min(first + tiling.rows_per_block, tiling.rows);
#pragma unroll 4
    for (int64_t row = first + threadIdx.y; row < last; row += blockDim.y) {
      const int64_t offset = row * params.channels + vector * kWidth;
      const T* hidden = static_cast<const T*>(params.rows) + offset + row * params.channels;
      float lanes[kWidth], gates[kWidth];
      const Vector value = Vector::load(hidden), gate = Vector::load(hidden + params.channels);
      value.unpack(lanes);
      gate.unpack(gates);
#pragma unroll
      for (int lane = 0; lane < kWidth; ++lane) lanes[lane] *= gelu(gates[lane]);
      Vector::pack(lanes).store(static_cast<T*>(params.out) + offset);
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------
// Launchers
// ---------------------------------------------------------------------------------------------------------------

template <typename T, int kWidth>
void launch_geglu(const GegluRowsParams& params, void* stream) {
  const RowTiling tiling = tile_rows(params.row_count, params.channels / kWidth);
  launch("geglu_rows", geglu_rows_kernel<T, kWidth>, tiling.shape(), stream, params, tiling);
}

}  // namespace

void geglu_rows(const GegluRowsParams& params, void* stream) {
  dispatch_dtype(params.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    can_vectorise<T>({params.rows, params.out}, {params.channels}) ? launch_geglu<T, kVectorWidth<T>>(params, stream)
                                                                   : launch_geglu<T, 1>(params, stream);
  });
}

}  // namespace sige::cuda
