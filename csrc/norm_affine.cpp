// norm_affine on the CPU: a few thousand numbers, so one thread, in fp64.
#include "norm_affine.h"

#include "common/simd.h"

namespace sige::SIGE_CPU_VARIANT {

// A norm's parameter in fp32, whatever it is stored in; `missing` everywhere where there is none.
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
  const int64_t channels = params.channels, size = channels / params.groups;
  const Floats parameters(2 * channels);  // [2, C]
  float *weight = parameters.data(), *bias = weight + channels;
  widen(params.weight, params.weight_dtype, channels, 1.0f, weight);
  widen(params.bias, params.bias_dtype, channels, 0.0f, bias);
  for (int64_t group = 0; group < params.batch * params.groups; ++group) {
    const GroupMoments moments = blended_moments(params, group);
    const int64_t first = group % params.groups * size;  // channel
    for (int64_t c = 0; c < size; ++c) {
      const double scale = moments.inverse * weight[first + c];
      params.scale[group * size + c] = static_cast<float>(scale);
      params.shift[group * size + c] = static_cast<float>(bias[first + c] - moments.mean * scale);
    }
  }
}

}  // namespace sige::SIGE_CPU_VARIANT
