// sige::group_stats and sige::update_group_stats: checks, allocation, launch.
#include "common/stats_arguments.h"

namespace sige {

static Tensor run_stats(GroupStatsParams params, const Tensor& rows) {  // [B, N, C]
  const Tensor out = new_tensor(rows, {params.batch, params.groups, 2}, ScalarType::Double);
  const Tensor partial = new_partial(params, rows);
  params.out = out.mutable_data_ptr<double>();
  params.partial = partial.mutable_data_ptr<double>();
  Launch(rows).run(device::group_stats, params);
  return out;
}

Tensor group_stats(const Tensor& rows,  // [B, N, C]
                   int64_t groups) {
  return run_stats(row_params("group_stats", "rows", rows, groups), rows);
}

Tensor update_group_stats(const Tensor& stats,          // fp64 [B, G, 2]
                          const Tensor& recorded,       // [B, M, C]
                          const OptionalTensor& index,  // int32 [N]: the recorded rows that packed replaces
                          const Tensor& packed) {       // [B, N, C]
  const char* op = "update_group_stats";
  check_shape({op, "stats", stats}, "[B, G, 2]", {-1, -1, 2});
  GroupStatsParams params = row_params(op, "packed", packed, stats.size(1));
  check_tensor({op, "stats", stats}, packed, ScalarType::Double, "[B, G, 2]", {params.batch, params.groups, 2});
  check_tensor({op, "recorded", recorded}, packed, packed.scalar_type(), "[B, M, C]",
               {params.batch, index ? -1 : params.row_count, params.channels});
  if (index) {
    check_tensor({op, "index", *index}, packed, ScalarType::Int, "[N]", {params.row_count});
    check_index({op, "index", *index}, Launch(packed), -1, recorded.size(1));
    params.old_index = index->const_data_ptr<int32_t>();
  }
  params.old_rows[0] = recorded.const_data_ptr();
  params.old_row_count = recorded.size(1);
  params.base[0] = stats.const_data_ptr<double>();
  return run_stats(params, packed);
}

}  // namespace sige

SIGE_LIBRARY(m) {
  m.impl("group_stats", TORCH_BOX(&sige::group_stats));
  m.impl("update_group_stats", TORCH_BOX(&sige::update_group_stats));
}
