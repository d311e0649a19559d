// The CPU launchers: each calls the variant of its kernel that this machine runs best.
#include "blend_rows.h"
#include "block_attention.h"
#include "common/cpu_variant.h"
#include "fill_rows.h"
#include "gather.h"
#include "geglu_rows.h"
#include "group_stats.h"
#include "norm_affine.h"
#include "row_product.h"
#include "scatter.h"
#include "time_table.h"

#define SIGE_DECLARE_KERNELS                        \
  void gather(const GatherParams& params);          \
  void scatter(const ScatterParams& params);        \
  void fill_rows(const FillRowsParams& params);     \
  void blend_rows(const BlendRowsParams& params);   \
  void group_stats(const GroupStatsParams& params); \
  void norm_affine(const NormAffineParams& params); \
  void row_product(const RowProductParams& params); \
  void geglu_rows(const GegluRowsParams& params);   \
  void time_table(const TimeTableParams& params);   \
  void block_attention(const BlockAttentionParams& params);

namespace sige {

namespace portable {
SIGE_DECLARE_KERNELS
}
#if defined(__x86_64__) && !defined(SIGE_ONE_CPU_VARIANT)
namespace avx2 {
SIGE_DECLARE_KERNELS
}
namespace avx512 {
SIGE_DECLARE_KERNELS
}
#endif

namespace cpu {

#if defined(__x86_64__) && !defined(SIGE_ONE_CPU_VARIANT)
static CpuVariant variant() {
  static const CpuVariant chosen = choose_cpu_variant();
  return chosen;
}

#define SIGE_CALL_VARIANT(kernel, params) \
  switch (variant()) {                    \
    case CpuVariant::kAvx512:             \
      return avx512::kernel(params);      \
    case CpuVariant::kAvx2:               \
      return avx2::kernel(params);        \
    case CpuVariant::kPortable:           \
      return portable::kernel(params);    \
  }
#else
#define SIGE_CALL_VARIANT(kernel, params) return portable::kernel(params)
#endif

void gather(const GatherParams& params) { SIGE_CALL_VARIANT(gather, params); }
void scatter(const ScatterParams& params) { SIGE_CALL_VARIANT(scatter, params); }
void fill_rows(const FillRowsParams& params) { SIGE_CALL_VARIANT(fill_rows, params); }
void blend_rows(const BlendRowsParams& params) { SIGE_CALL_VARIANT(blend_rows, params); }
void group_stats(const GroupStatsParams& params) { SIGE_CALL_VARIANT(group_stats, params); }
void norm_affine(const NormAffineParams& params) { SIGE_CALL_VARIANT(norm_affine, params); }
void geglu_rows(const GegluRowsParams& params) { SIGE_CALL_VARIANT(geglu_rows, params); }
void time_table(const TimeTableParams& params) { SIGE_CALL_VARIANT(time_table, params); }
void row_product(const RowProductParams& params) { SIGE_CALL_VARIANT(row_product, params); }
void block_attention(const BlockAttentionParams& params) { SIGE_CALL_VARIANT(block_attention, params); }

bool prefers_row_product() {
  if (const char* wanted = std::getenv("SIGE_PRODUCT"); wanted && *wanted) return !std::strcmp(wanted, "own");
#if defined(__x86_64__)
  static const bool prefers = choose_cpu_variant() != CpuVariant::kPortable && __builtin_cpu_is("amd");
  return prefers;
#else
  return false;
#endif
}

}  // namespace cpu
}  // namespace sige
