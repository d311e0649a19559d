// group_stats: sums and sums of squares per group, and their exact update when some rows are replaced. Several
// recordings can be updated at once: the terms of a blend.
#pragma once

#include "common/types.h"

namespace sige {

// Rows are summed in fp32 within a block of kStatsRows rows, and blocks in fp64 in their order. So the result does not
// depend on the number of threads, and a long sum has the rounding error of a short one.
constexpr int64_t kStatsRows = 64;

struct GroupStatsParams {
  const void* rows;                  // [B, N, C]: added
  const void* old_rows[kMostTerms];  // [B, M, C] each, or null: subtracted, row old_index[n] for row n
  const int32_t* old_index;          // [N] or null for the identity; a row with a negative entry does not count
  const double* base[kMostTerms];    // [B, G, 2] each, or null for zero: what the sums start from
  double* out;                       // [K, B, G, 2]: sum, sum of squares
  double* partial;                   // [K, B, stats_blocks, G, 2] workspace
  int64_t terms;                     // K
  int64_t batch;                     // B
  int64_t row_count;                 // N
  int64_t old_row_count;             // M
  int64_t channels;                  // C
  int64_t groups;                    // G, divides C
  DType dtype;                       // of rows and old_rows
};

// The blocks of rows of one sample: one also where there are no rows, which then writes zeros.
inline int64_t stats_blocks(const GroupStatsParams& params) {
  return params.row_count > 0 ? ceil_div(params.row_count, kStatsRows) : 1;
}

// The row of a recording that row `n` replaces; negative where row `n` does not count.
SIGE_HOST_DEVICE inline int64_t replaced_row(const GroupStatsParams& params, int64_t n) {
  return params.old_index ? params.old_index[n] : n;
}

namespace cpu {
void group_stats(const GroupStatsParams& params);
}
namespace cuda {
void group_stats(const GroupStatsParams& params, void* stream);
}

}  // namespace sige
