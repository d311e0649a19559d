#include "blend_rows.h"
#include "common/fast_divisor.h"
#include "common/row_tiling.cuh"

namespace sige::cuda {
namespace {

// ---------------------------------------------------------------------------------------------------------------
// Kernels
// ---------------------------------------------------------------------------------------------------------------

// Every term's vector is on its way before the first is added. A term of weight 0 is not read.
template <typename T, int kWidth>
__device__ Packed<T, kWidth> blend_vectors(const BlendRowsParams& params, const float (&weights)[kMostTerms],
                                           int64_t offset) {
  using Vector = Packed<T, kWidth>;
  Vector vectors[kMostTerms];
#pragma unroll
  for (int k = 0; k < kMostTerms; ++k) {
    vectors[k] = weights[k] != 0.0f ? Vector::load(static_cast<const T*>(params.rows[k]) + offset) : Vector::zero();
  }
  float total[kWidth] = {};
#pragma unroll
  for (int k = 0; k < kMostTerms; ++k) {
    if (weights[k] == 0.0f) continue;
    float lanes[kWidth];
    vectors[k].unpack(lanes);
#pragma unroll
    for (int lane = 0; lane < kWidth; ++lane) total[lane] += weights[k] * lanes[lane];
  }
  return Vector::pack(total);
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kRowThreads)
    blend_rows_kernel(const BlendRowsParams params, const RowTiling tiling, const FastDivisor row_count) {
  __shared__ int64_t sources[kMaxRowsPerBlock];
  const int32_t thread = threadIdx.y * blockDim.x + threadIdx.x;
  const int64_t vector = static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x;
  float weights[kMostTerms];
#pragma unroll
  for (int k = 0; k < kMostTerms; ++k) weights[k] = k < params.terms ? static_cast<float>(params.weights[k]) : 0.0f;

  for (int64_t block = blockIdx.x; block < tiling.blocks; block += gridDim.x) {
    const int64_t first = block * tiling.rows_per_block;
    const int64_t left = tiling.rows - first;
    const int32_t count = static_cast<int32_t>(left < tiling.rows_per_block ? left : tiling.rows_per_block);
    for (int32_t i = thread; i < count; i += blockDim.x * blockDim.y) {
      sources[i] = source_offset(params, first + i, row_count);
    }
    __syncthreads();
    if (vector < tiling.vectors) {
      T* out = static_cast<T*>(params.out) + first * params.channels + vector * kWidth;
      for (int32_t i = threadIdx.y; i < count; i += blockDim.y) {
        blend_vectors<T, kWidth>(params, weights, sources[i] + vector * kWidth).store(out + i * params.channels);
      }
    }
    __syncthreads();  // the next rows overwrite `sources`
  }
}

// ---------------------------------------------------------------------------------------------------------------
// Launchers
// ---------------------------------------------------------------------------------------------------------------

template <typename T, int kWidth>
void launch_blend(const BlendRowsParams& params, void* stream) {
  const RowTiling tiling = tile_rows(params.batch * params.row_count, params.channels / kWidth);
  launch("blend_rows", blend_rows_kernel<T, kWidth>, tiling.shape(), stream, params, tiling,
         FastDivisor(params.row_count));
}

// The terms are separate tensors: each must start on a vector's boundary.
template <typename T>
bool all_vectorise(const BlendRowsParams& params) {
  bool all = can_vectorise<T>({params.out}, {params.channels});
  for (int64_t k = 0; k < params.terms; ++k) all = all && can_vectorise<T>({params.rows[k]}, {});
  return all;
}

}  // namespace

void blend_rows(const BlendRowsParams& params, void* stream) {
  dispatch_dtype(params.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    all_vectorise<T>(params) ? launch_blend<T, kVectorWidth<T>>(params, stream) : launch_blend<T, 1>(params, stream);
  });
}

}  // namespace sige::cuda
