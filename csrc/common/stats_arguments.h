// The rows that group_stats, update_group_stats and norm_affine add up, checked and turned into GroupStatsParams.
#pragma once

#include "common/op.h"
#include "group_stats.h"

namespace sige {

inline GroupStatsParams row_params(const char* op, const char* name, const Tensor& rows,  // [B, N, C]
                                   int64_t groups) {
  check_tensor({op, name, rows}, rows, rows.scalar_type(), "[B, N, C]", {-1, -1, -1});
  check_device({op, name, rows});
  if (groups < 1 || rows.size(2) % groups != 0) {
    fail(op, ": groups is ", groups, ", expected a divisor of the ", rows.size(2), " channels of ", name);
  }
  GroupStatsParams params{};
  params.rows = rows.const_data_ptr();
  params.terms = 1;
  params.batch = rows.size(0);
  params.row_count = rows.size(1);
  params.channels = rows.size(2);
  params.groups = groups;
  params.dtype = storage_dtype({op, name, rows});
  return params;
}

// The workspace of sums over `params.row_count` rows: fp64 [K, B, stats_blocks, G, 2].
inline Tensor new_partial(const GroupStatsParams& params, const Tensor& rows) {
  return new_tensor(rows, {params.terms, params.batch, stats_blocks(params), params.groups, 2}, ScalarType::Double);
}

}  // namespace sige
