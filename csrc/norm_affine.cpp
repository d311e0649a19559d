// norm_affine on the CPU: group_stats adds the rows; the rest takes one thread and fp64, because it computes only a
// few thousand numbers.
#include "norm_affine.h"

#include "common/simd.h"

namespace sige::SIGE_CPU_VARIANT {

// Converts a norm's parameter of any storage type to fp32; a null one gives `missing` for every channel.
static void widen(const void* parameter, DType dtype, int64_t channels, float missing,  // [C] or null
                  float* out) {                                                         // [C]
  dispatch(dtype, [&](auto tag) {
    const auto* from = static_cast<const decltype(tag)*>(parameter);
    for (int64_t c = 0; c < channels; c += kLanes) {
      store(out + c, from ? load(from + c, channels - c) : broadcast(missing), channels - c);
    }
  });
}

void norm_affine(const NormAffineParams& params) {
  const GroupStatsParams& sums = params.sums;
  cpu::group_stats(sums);
  const int64_t channels = sums.channels, size = channels / sums.groups, all_groups = sums.batch * sums.groups;
  const Floats parameters(2 * channels);  // [2, C]
  float *weight = parameters.data(), *bias = weight + channels;
  widen(params.weight, params.weight_dtype, channels, 1.0f, weight);
  widen(params.bias, params.bias_dtype, channels, 0.0f, bias);
  for (int64_t group = 0; group < all_groups; ++group) {
    const GroupMoments moments = blended_moments(params, sums.out + group * 2, all_groups * 2);
    const int64_t first = group % sums.groups * size;  // channel
    for (int64_t c = 0; c < size; ++c) {
      const double scale = moments.inverse * weight[first + c];
      params.scale[group * size + c] = static_cast<float>(scale);
      params.shift[group * size + c] = static_cast<float>(bias[first + c] - moments.mean * scale);
    }
  }
}

}  // namespace sige::SIGE_CPU_VARIANT
