// norm_affine: the sums of a blend's terms, updated by the packed rows, become one scale and shift per channel, which
// stand for a GroupNorm.
#pragma once

#include <cmath>

#include "group_stats.h"

namespace sige {

constexpr double kLeastVariance = 1e-12;  // of a group that is constant; sige/ops/moments.py holds the same number

struct NormAffineParams {
  GroupStatsParams sums;
  const double* blend;  // [K], one weight for each term, on the device; terms of weight 0 are left out
  const void* weight;   // [C] or null for ones
  const void* bias;     // [C] or null for zeros
  float* scale;         // [B, C]
  float* shift;         // [B, C]
  double count;         // elements of a group
  double eps;
  DType weight_dtype;  // of weight
  DType bias_dtype;    // of bias
};

struct GroupMoments {
  double mean;
  double inverse;  // 1 / sqrt(variance + eps)
};

// `a`, but at least `least`; NaN stays NaN.
SIGE_HOST_DEVICE inline double at_least(double a, double least) { return a < least ? least : a; }

// Says whether one term has weight 1 and all others weight 0.
SIGE_HOST_DEVICE inline bool is_one_term(const double* blend, int64_t terms) {
  int64_t ones = 0, zeros = 0;
  for (int64_t k = 0; k < terms; ++k) {
    ones += blend[k] == 1.0;
    zeros += blend[k] == 0.0;
  }
  return ones == 1 && zeros == terms - 1;
}

// The moments of one group. The blend weights the means, and the variances on a logarithmic scale: with negative
// weights, a weighted sum of squares could leave a variance below zero. A term of weight 1 that is left alone stays.
SIGE_HOST_DEVICE inline GroupMoments blended_moments(const NormAffineParams& params,
                                                     const double* sums,  // [K, ., 2], the group's first pair
                                                     int64_t stride) {    // between the sums of two terms
  const bool alone = is_one_term(params.blend, params.sums.terms);
  double mean = 0.0, log_variance = 0.0, variance = 0.0;
  for (int64_t k = 0; k < params.sums.terms; ++k, sums += stride) {
    const double weight = params.blend[k];
    if (weight == 0.0) continue;
    const double term_mean = sums[0] / params.count;
    variance = sums[1] / params.count - term_mean * term_mean;
    mean += weight * term_mean;
    if (!alone) log_variance += weight * ::log(at_least(variance, kLeastVariance));
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
