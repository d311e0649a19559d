#include "common/fast_divisor.h"
#include "common/launch.cuh"
#include "norm_affine.h"

namespace sige::cuda {
namespace {

// ---------------------------------------------------------------------------------------------------------------
// Kernels
// ---------------------------------------------------------------------------------------------------------------

constexpr int kAffineThreads = 64;

// The value of a norm's parameter for one channel, from any storage type.
__device__ float parameter(const void* values, DType dtype, int64_t channel) {  // [C]
  if (dtype == DType::kFloat16) return to_float(static_cast<const __half*>(values)[channel]);
  if (dtype == DType::kBFloat16) return to_float(static_cast<const __nv_bfloat16*>(values)[channel]);
  return static_cast<const float*>(values)[channel];
}

// The sum of every kAffineThreads-th of the partial sums, for this thread; then of all threads, in a fixed order.
__device__ double sum_blocks(const double* partial, int64_t blocks, int64_t stride, double* lanes) {
  const int thread = static_cast<int>(threadIdx.x);
  double sum = 0.0;
  for (int64_t block = thread; block < blocks; block += kAffineThreads) sum += partial[block * stride];
  lanes[thread] = sum;
  __syncthreads();
  for (int distance = kAffineThreads / 2; distance > 0; distance /= 2) {
    if (thread < distance) lanes[thread] += lanes[thread + distance];
    __syncthreads();
  }
  sum = lanes[0];
  __syncthreads();  // the next sum overwrites `lanes`
  return sum;
}

// A block takes one group of `size` channels of one sample: it ends the sums of each term, computes the moments, and
// writes the group's channels.
__global__ void __launch_bounds__(kAffineThreads)
    norm_affine_kernel(const NormAffineParams params, int64_t blocks, int64_t size, const FastDivisor groups) {
  __shared__ double lanes[kAffineThreads];
  __shared__ double sums[kMostTerms * 2];
  const GroupStatsParams& rows = params.sums;
  const int64_t width = rows.groups * 2, all_groups = rows.batch * rows.groups;
  for (int64_t group = blockIdx.x; group < all_groups; group += gridDim.x) {
    const int64_t b = group / groups, g = group % groups;
    for (int64_t slot = 0; slot < rows.terms * 2; ++slot) {
      const int64_t term = slot / 2, column = g * 2 + slot % 2;
      const double* partial = rows.partial + (term * rows.batch + b) * blocks * width + column;
      const double sum = sum_blocks(partial, blocks, width, lanes);
      if (threadIdx.x == 0) sums[slot] = rows.base[term][b * width + column] + sum;
    }
    __syncthreads();
    const GroupMoments moments = blended_moments(params, sums, 2);
    for (int64_t c = threadIdx.x; c < size; c += kAffineThreads) {
      const int64_t channel = g * size + c;
      const double weight = params.weight ? parameter(params.weight, params.weight_dtype, channel) : 1.0;
      const double bias = params.bias ? parameter(params.bias, params.bias_dtype, channel) : 0.0;
      const double scale = moments.inverse * weight;
      params.scale[b * rows.channels + channel] = static_cast<float>(scale);
      params.shift[b * rows.channels + channel] = static_cast<float>(bias - moments.mean * scale);
    }
    __syncthreads();  // the next group overwrites `sums`
  }
}

// ---------------------------------------------------------------------------------------------------------------
// Launchers
// ---------------------------------------------------------------------------------------------------------------

}  // namespace

void norm_affine(const NormAffineParams& params, void* stream) {
  group_stats_partial(params.sums, stream);
  const LaunchShape shape = {params.sums.batch * params.sums.groups, dim3(kAffineThreads)};
  launch("norm_affine", norm_affine_kernel, shape, stream, params, ceil_div(params.sums.row_count, kStatsRows),
         params.sums.channels / params.sums.groups, FastDivisor(params.sums.groups));
}

}  // namespace sige::cuda
