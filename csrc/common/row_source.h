// The row that a gather-map entry names: the index arithmetic that all gathering kernels share.
#pragma once

#include "common/types.h"

namespace sige {

// Packed rows (new values) and recorded rows (old values) seen as one list, the way a gather map numbers them:
//   entry < 0                 a zero row (padding)
//   0 <= entry < packed_rows  packed row `entry`
//   packed_rows <= entry      recorded row `entry - packed_rows`
struct RowSource {
  const void* packed;     // [B, N, C]
  const void* recorded;   // [B, M, C]
  int64_t packed_rows;    // N
  int64_t recorded_rows;  // M
  int64_t channels;       // C

  // First element of the row that `entry` names in sample `b`, or null for a zero row.
  template <typename T>
  SIGE_HOST_DEVICE const T* row(int64_t b, int32_t entry) const {
    if (entry < 0) return nullptr;
    if (entry < packed_rows) return static_cast<const T*>(packed) + (b * packed_rows + entry) * channels;
    return static_cast<const T*>(recorded) + (b * recorded_rows + (entry - packed_rows)) * channels;
  }
};

}  // namespace sige
