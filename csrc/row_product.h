// row_product: out (+)= A W^T where the rows of A are put together from pieces: a sparse convolution without its
// gathered matrix, or a linear layer. On the CPU in fp32, on CUDA in fp16 and bf16.
#pragma once

#include "common/product_plan.h"
#include "common/row_source.h"
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

constexpr int64_t kMostProductTaps = 16;  // the pieces of a CUDA block's rows lie in shared memory
constexpr int64_t kMostLayers = 4;        // that multiply the same rows; sige/ops/linear_stack.py holds the same number

using LayerData = const void* [kMostLayers];

// On CUDA the pieces come from a gather map, and bias and residual are added before the one rounding. Several layers of
// one shape can multiply the same rows in one launch; their outputs lie one after the other.
struct MappedProductParams {
  RowSource source;      // packed [B, N, C], recorded [B, M, C]
  const int32_t* index;  // [N_out, T], or null: row m of A is row m of `packed`
  LayerData weights;     // [C_out, T * C] each
  LayerData biases;      // [C_out], or [B, C_out] with the samples bias_stride elements apart, or null
  const void* residual;  // [R, C_out] or null; null with several layers
  void* out;             // [layers, R, C_out]
  float* partials;       // [layers, plan.splits, R, C_out], or null where the plan has one split
  int64_t layers;        // 1 for a convolution
  int64_t rows;          // R
  int64_t first_row;     // of all samples' rows, that `out` begins with; 0 with an index
  int64_t sample_rows;   // N_out, the rows of one sample
  int64_t columns;       // C_out
  int64_t taps;          // T
  int64_t bias_stride;   // 0 where the samples share one bias
  DType dtype;           // of all but `partials`
  ProductPlan plan;
};

namespace cpu {
void row_product(const RowProductParams& params);

// Says whether row_product is the faster one on this machine. It is on AMD (Zen 4: 0.3 to 0.9 of MKL's time up to 500
// rows, as fast above). On other processors the platform's product runs: on an Intel Xeon with AVX-512 row_product
// takes 0.7 to 0.95 of MKL's time for fewer than 40 rows, and 1.0 to 1.9 above. SIGE_PRODUCT=own asks for row_product,
// SIGE_PRODUCT=platform for the platform's. On CUDA common/mapped_product.h decides.
bool prefers_row_product();
}  // namespace cpu

namespace cuda {
struct ProductDevice {
  int64_t multiprocessors;
  int64_t generation;  // the major number of the compute capability
};
ProductDevice product_device();  // the current one

// Takes 16-byte vectors: sizes and pointers are what takes_mapped_product of common/mapped_product.h asks for.
void row_product(const MappedProductParams& params, void* stream);
}  // namespace cuda

}  // namespace sige
