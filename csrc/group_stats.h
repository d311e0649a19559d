// group_stats: sums and sums of squares per group, and their exact update when some rows are replaced.
#pragma once

#include "common/types.h"

namespace sige {

// Rows are summed in fp32 within a block of kStatsRows rows, and blocks in fp64 in their order. So the result does not
// depend on the number of threads, and a long sum has the rounding error of a short one.
constexpr int64_t kStatsRows = 64;

struct GroupStatsParams {
  const void* rows;          // [B, N, C]: added
  const void* old_rows;      // [B, M, C] or null: subtracted, row old_index[n] for row n
  const int32_t* old_index;  // [N] or null for the identity
  const double* base;        // [B, G, 2] or null for zero: what the sums start from
  double* out;               // [B, G, 2]: sum, sum of squares
  double* partial;           // [B, ceil(N / kStatsRows), G, 2] workspace
  int64_t batch;             // B
  int64_t row_count;         // N
  int64_t old_row_count;     // M
  int64_t channels;          // C
  int64_t groups;            // G, divides C
  DType dtype;               // of rows and old_rows
};

// Row of old_rows [B, M, C] that row `n` replaces, in elements from the start of the tensor.
SIGE_HOST_DEVICE inline int64_t old_row_offset(const GroupStatsParams& params, int64_t b, int64_t n) {
  const int64_t row = params.old_index ? params.old_index[n] : n;
  return (b * params.old_row_count + row) * params.channels;
}

namespace cpu {
void group_stats(const GroupStatsParams& params);
}
namespace cuda {
void group_stats(const GroupStatsParams& params, void* stream);
}

}  // namespace sige
