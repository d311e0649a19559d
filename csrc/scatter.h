// scatter: packed rows into a dense tensor, in place, at the active positions.
#pragma once

#include "common/types.h"

namespace sige {

struct ScatterParams {
  void* dense;                                     // [B, C, H, W] with the strides below
  const void* packed;                              // [B, N, C]
  const void* residual;                            // [B, N, C] or null: added to the packed rows
  const int32_t* index;                            // [N]: the position h * W + w of each row
  int64_t batch;                                   // B
  int64_t rows;                                    // N
  int64_t channels;                                // C
  int64_t width;                                   // W
  int64_t stride_b, stride_c, stride_h, stride_w;  // of dense, in elements
  DType dtype;                                     // of dense, packed and residual
};

// Offset of channel 0 of `position` in sample `b` of the dense tensor. `width` is params.width, or a FastDivisor of it.
template <typename Divisor>
static SIGE_HOST_DEVICE inline int64_t dense_offset(const ScatterParams& params, int64_t b, int64_t position,
                                                    const Divisor& width) {
  return b * params.stride_b + (position / width) * params.stride_h + (position % width) * params.stride_w;
}

SIGE_HOST_DEVICE inline int64_t dense_offset(const ScatterParams& params, int64_t b, int32_t position) {
  return dense_offset(params, b, position, params.width);
}

namespace cpu {
void scatter(const ScatterParams& params);
}
namespace cuda {
void scatter(const ScatterParams& params, void* stream);
}

}  // namespace sige
