// row_product: out (+)= A W^T on the CPU, fp32, where the rows of A are put together from pieces: a sparse convolution
// without its gathered matrix, or a linear layer.
#pragma once

#include "common/types.h"

namespace sige {

struct RowProductParams {
  // Row m of A is pieces[m, 0], pieces[m, 1], ... end to end, each [K / P]; null stands for zeros.
  const float* const* pieces;  // [M, P]
  const float* weight;         // [N, K]
  const float* bias;           // [N], or null
  float* out;                  // [M, N]
  int64_t rows;                // M
  int64_t columns;             // N, a multiple of 4
  int64_t pieces_per_row;      // P
  int64_t piece_size;          // K / P, a multiple of 16
  bool accumulate;             // start from what `out` holds; then bias is null
};

// Says whether the kernel can take these sizes; other products go through the platform's.
inline bool fits_row_product(int64_t columns, int64_t piece_size) {
  return columns > 0 && columns % 4 == 0 && piece_size > 0 && piece_size % 16 == 0;
}

namespace cpu {
void row_product(const RowProductParams& params);

// Says whether row_product is the faster one on this machine. It is on AMD (Zen 4: 0.3 to 0.9 of MKL's time up to 500
// rows, as fast above). On other processors the platform's product runs. SIGE_PRODUCT=own asks for row_product,
// SIGE_PRODUCT=platform for the platform's.
bool prefers_row_product();
}  // namespace cpu

}  // namespace sige
