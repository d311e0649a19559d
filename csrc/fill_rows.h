// fill_rows: writes bias + residual, to which a matrix product is added. It is no op of its own: linear and
// sparse_conv2d start with it.
#pragma once

#include "common/types.h"

namespace sige {

struct FillRowsParams {
  const void* bias;      // [B, C] or null; the samples lie bias_stride elements apart, 0 where they share one
  const void* residual;  // [R, C] or null
  void* out;             // [R, C]: bias + residual
  int64_t rows;          // R
  int64_t first_row;     // of all samples' rows, that `out` begins with
  int64_t sample_rows;   // rows of one sample
  int64_t bias_stride;
  int64_t channels;  // C
  DType dtype;       // of bias, residual and out
};

// Where the bias of row `row` of out begins, in elements. `sample_rows` is params.sample_rows, or a FastDivisor of it.
template <typename Divisor>
static SIGE_HOST_DEVICE inline int64_t bias_offset(const FillRowsParams& params, int64_t row,
                                                   const Divisor& sample_rows) {
  return params.bias_stride ? (params.first_row + row) / sample_rows * params.bias_stride : 0;
}

namespace cpu {
void fill_rows(const FillRowsParams& params);
}
namespace cuda {
void fill_rows(const FillRowsParams& params, void* stream);
}

}  // namespace sige
