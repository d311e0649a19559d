#include "common/stats_rows.cuh"

namespace sige::cuda {
namespace {

// out = base + the sums over all rows.
struct SumsOut {
  GroupStatsParams sums;

  __device__ void end(const StatsTiling& tiling, int64_t b, int64_t first_group, int groups) const {
    const double* rows = whole_sums(sums, tiling.blocks_of_rows, b, first_group);
    const int64_t stride = sums_stride(sums, tiling.blocks_of_rows), first = (b * sums.groups + first_group) * 2;
    for (int64_t k = 0; k < sums.terms; ++k) {
      for (int column = stats_thread(); column < groups * 2; column += stats_threads()) {
        const double base = sums.base[k] ? sums.base[k][first + column] : 0.0;
        sums.out[k * sums.batch * sums.groups * 2 + first + column] = base + __ldcg(rows + k * stride + column);
      }
    }
  }
};

}  // namespace

void group_stats(const GroupStatsParams& params, void* stream) {
  params.old_rows[0] ? launch_stats<true>("group_stats", SumsOut{params}, stream)
                     : launch_stats<false>("group_stats", SumsOut{params}, stream);
}

}  // namespace sige::cuda
