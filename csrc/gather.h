// gather: packed rows + recorded rows + gather map -> the matrix that a convolution multiplies (a sparse im2col).
#pragma once

#include "common/row_source.h"

namespace sige {

struct GatherParams {
  RowSource source;      // packed [B, N, C], recorded [B, M, C]
  const int32_t* index;  // [N_out, T]
  const float* scale;    // [B, C] or null
  const float* shift;    // [B, C] or null; null exactly when scale is
  void* out;             // [row_count, T * C]: rows first_row .. first_row + row_count of the flattened [B * N_out]
  int64_t out_rows;      // N_out
  int64_t taps;          // T
  int64_t first_row;
  int64_t row_count;
  DType dtype;            // of packed, recorded and out
  Activation activation;  // applied after scale and shift; zero rows stay zero
};

// One row of the chunk: its sample, and where its taps start in index [N_out, T].
struct GatherRow {
  int64_t batch;
  int64_t first_slot;
};

// `out_rows` is params.out_rows, or a FastDivisor of it.
template <typename Divisor>
static SIGE_HOST_DEVICE inline GatherRow gather_row(const GatherParams& params, int64_t row, const Divisor& out_rows) {
  const int64_t flat = params.first_row + row;
  return {flat / out_rows, flat % out_rows * params.taps};
}

SIGE_HOST_DEVICE inline GatherRow gather_row(const GatherParams& params, int64_t row) {
  return gather_row(params, row, params.out_rows);
}

// The gather-map entry at `slot`.
SIGE_HOST_DEVICE inline int32_t gather_entry(const GatherParams& params, int64_t slot) {
  return params.index ? params.index[slot] : static_cast<int32_t>(slot);
}

namespace cpu {
void gather(const GatherParams& params);
}
namespace cuda {
void gather(const GatherParams& params, void* stream);
}

}  // namespace sige
