#include "common/stats_rows.cuh"
#include "norm_affine.h"

namespace sige::cuda {
namespace {

// The value of a norm's parameter for one channel, from any storage type.
__device__ float parameter(const void* values, DType dtype, int64_t channel) {  // [C]
  if (dtype == DType::kFloat16) return to_float(static_cast<const __half*>(values)[channel]);
  if (dtype == DType::kBFloat16) return to_float(static_cast<const __nv_bfloat16*>(values)[channel]);
  return static_cast<const float*>(values)[channel];
}

// The moments of each group of a sample, then scale and shift of its channels.
struct Affine : NormAffineParams {
  __device__ void end(const StatsTiling& tiling, int64_t b, int64_t first_group, int groups) const {
    __shared__ GroupMoments moments[kStatsThreads];
    if (stats_thread() < groups) moments[stats_thread()] = moments_of(tiling, b, first_group + stats_thread());
    __syncthreads();
    for (int c = stats_thread(); c < groups * tiling.group_size; c += stats_threads()) {
      const GroupMoments& group = moments[c / tiling.group_size];
      const int64_t channel = first_group * tiling.group_size + c;
      const double gain = weight ? parameter(weight, weight_dtype, channel) : 1.0;
      const double offset = bias ? parameter(bias, bias_dtype, channel) : 0.0;
      const double factor = group.inverse * gain;
      scale[b * sums.channels + channel] = static_cast<float>(factor);
      shift[b * sums.channels + channel] = static_cast<float>(offset - group.mean * factor);
    }
    __syncthreads();  // the next sample overwrites `moments`
  }

 private:
  // It adds what the sums start from in place: they are this thread's alone.
  __device__ GroupMoments moments_of(const StatsTiling& tiling, int64_t b, int64_t group) const {
    double* const pair = whole_sums(sums, tiling.blocks_of_rows, b, group);
    const int64_t stride = sums_stride(sums, tiling.blocks_of_rows);
    for (int64_t k = 0; k < sums.terms; ++k) {
      const double* base = sums.base[k] + (b * sums.groups + group) * 2;
      for (int i = 0; i < 2; ++i) pair[k * stride + i] = base[i] + __ldcg(pair + k * stride + i);
    }
    return blended_moments(*this, pair, stride);
  }
};

}  // namespace

void norm_affine(const NormAffineParams& params, void* stream) {
  launch_stats<true>("norm_affine", Affine{params}, stream);
}

}  // namespace sige::cuda
