// blend_rows: a weighted sum of recorded rows, at some positions or at all.
#pragma once

#include "common/types.h"

namespace sige {

struct BlendRowsParams {
  const void* rows[kMostTerms];  // [B, M, C] each, the first `terms` of them
  const double* weights;         // [K], on the device; rows of weight 0 are not read
  const int32_t* index;          // [N] or null for the identity
  void* out;                     // [B, N, C]
  int64_t terms;                 // K
  int64_t batch;                 // B
  int64_t row_count;             // N
  int64_t source_rows;           // M
  int64_t channels;              // C
  DType dtype;                   // of rows and out
};

// Row of rows [B, M, C] that row `row` of out [B * N] sums, in elements from the start of the tensor. `row_count` is
// params.row_count, or a FastDivisor of it.
template <typename Divisor>
static SIGE_HOST_DEVICE inline int64_t source_offset(const BlendRowsParams& params, int64_t row,
                                                     const Divisor& row_count) {
  const int64_t b = row / row_count, n = row % row_count;
  return (b * params.source_rows + (params.index ? params.index[n] : n)) * params.channels;
}

namespace cpu {
void blend_rows(const BlendRowsParams& params);
}
namespace cuda {
void blend_rows(const BlendRowsParams& params, void* stream);
}

}  // namespace sige
