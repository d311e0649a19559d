#include "common/fast_divisor.h"
#include "common/launch.cuh"
#include "norm_affine.h"

namespace sige::cuda {
namespace {

// ---------------------------------------------------------------------------------------------------------------
// Kernels
// ---------------------------------------------------------------------------------------------------------------

constexpr int kAffineThreads = 128;

// The value of a norm's parameter for one channel, from any storage type.
__device__ float parameter(const void* values, DType dtype, int64_t channel) {  // [C]
  if (dtype == DType::kFloat16) return to_float(static_cast<const __half*>(values)[channel]);
  if (dtype == DType::kBFloat16) return to_float(static_cast<const __nv_bfloat16*>(values)[channel]);
  return static_cast<const float*>(values)[channel];
}

// One thread per channel. Each thread of a group computes the group's moments itself: some logarithms cost less than
// the barrier that sharing would need.
__global__ void __launch_bounds__(kAffineThreads)
    norm_affine_kernel(const NormAffineParams params, const FastDivisor group_size, const FastDivisor channels) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kAffineThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kAffineThreads + threadIdx.x; i < params.batch * params.channels;
       i += step) {
    const GroupMoments moments = blended_moments(params, i / group_size);
    const int64_t channel = i % channels;
    const double weight = params.weight ? parameter(params.weight, params.weight_dtype, channel) : 1.0;
    const double bias = params.bias ? parameter(params.bias, params.bias_dtype, channel) : 0.0;
    const double scale = moments.inverse * weight;
    params.scale[i] = static_cast<float>(scale);
    params.shift[i] = static_cast<float>(bias - moments.mean * scale);
  }
}

// ---------------------------------------------------------------------------------------------------------------
// Launchers
// ---------------------------------------------------------------------------------------------------------------

}  // namespace

void norm_affine(const NormAffineParams& params, void* stream) {
  const LaunchShape shape = {ceil_div(params.batch * params.channels, kAffineThreads), dim3(kAffineThreads)};
  launch("norm_affine", norm_affine_kernel, shape, stream, params, FastDivisor(params.channels / params.groups),
         FastDivisor(params.channels));
}

}  // namespace sige::cuda
