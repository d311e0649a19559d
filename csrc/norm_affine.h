// norm_affine: turns the sums of a blend's terms into one scale and shift per channel, which stand for a GroupNorm.
// group_stats computes the sums.
#pragma once

#include <cmath>

#include "common/types.h"

namespace sige {

constexpr double kLeastVariance = 1e-12;  // of a group that is constant; sige/ops/moments.py holds the same number

struct NormAffineParams {
  const double* stats;       // [K, B, G, 2]: sum, sum of squares
  double blend[kMostTerms];  // one weight for each term
  const void* weight;        // [C] or null for ones
  const void* bias;          // [C] or null for zeros
  float* scale;              // [B, C]
  float* shift;              // [B, C]
  double count;              // elements of a group
  double eps;
  int64_t terms;       // K
  int64_t batch;       // B
  int64_t channels;    // C
  int64_t groups;      // G, divides C
  DType weight_dtype;  // of weight
  DType bias_dtype;    // of bias
};

struct GroupMoments {
  double mean;
  double inverse;  // 1 / sqrt(variance + eps)
};

// `a`, but at least `least`; NaN stays NaN.
static SIGE_HOST_DEVICE inline double at_least(double a, double least) { return a < least ? least : a; }

// The moments of group `group` of [B * G]. The blend weights the means, and the variances on a logarithmic scale: with
// negative weights, a weighted sum of squares could leave a variance below zero. One term of weight 1 stays as it is.
static SIGE_HOST_DEVICE inline GroupMoments blended_moments(const NormAffineParams& params, int64_t group) {
  const bool alone = params.terms == 1 && params.blend[0] == 1.0;
  double mean = 0.0, log_variance = 0.0, variance = 0.0;
  for (int64_t k = 0; k < params.terms; ++k) {
    const double* sums = params.stats + (k * params.batch * params.groups + group) * 2;
    const double term_mean = sums[0] / params.count;
    variance = sums[1] / params.count - term_mean * term_mean;
    mean += params.blend[k] * term_mean;
    if (!alone) log_variance += params.blend[k] * ::log(at_least(variance, kLeastVariance));
  }
  variance = alone ? at_least(variance, 0.0) : ::exp(log_variance);
  return {mean, 1.0 / ::sqrt(variance + params.eps)};
}

namespace cpu {
void norm_affine(const NormAffineParams& params);
}
namespace cuda {
void norm_affine(const NormAffineParams& params, void* stream);
}

}  // namespace sige
