// out (+)= rows W^T through the platform's library, or through row_product on the CPU. The ops that multiply share it.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#if defined(SIGE_CUDA)
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cuda.h>
#endif

#include "common/op.h"
#include "fill_rows.h"
#include "row_product.h"

namespace sige {

// Writes bias + residual into `count` rows of out [B, N, C_out] from row `first` on; the caller adds a product to them.
inline void fill_out(const Launch& launch, const OptionalTensor& bias,  // [C_out] or [B, C_out]
                     const OptionalTensor& residual,                    // [B, N, C_out]
                     const Tensor& out, int64_t first, int64_t count, DType dtype) {
  const int64_t channels = out.size(2);
  const int64_t offset = first * channels * static_cast<int64_t>(out.element_size());
  FillRowsParams fill{};
  fill.bias = bias ? bias->const_data_ptr() : nullptr;
  fill.residual = residual ? static_cast<const char*>(residual->const_data_ptr()) + offset : nullptr;
  fill.out = static_cast<char*>(out.mutable_data_ptr()) + offset;
  fill.rows = count;
  fill.first_row = first;
  fill.sample_rows = out.size(1);
  fill.bias_stride = bias && bias->dim() == 2 ? bias->stride(0) : 0;
  fill.channels = channels;
  fill.dtype = dtype;
  launch.run(device::fill_rows, fill);
}

// out = rows weight_t + beta * out.
inline void platform_product(const Tensor& rows,      // [M, K]
                             const Tensor& weight_t,  // [K, C_out]
                             double beta,
                             const Tensor& out) {  // [M, C_out]
#if defined(SIGE_CUDA)
  constexpr auto addmm_out = aoti_torch_cuda_addmm_out;
#else
  constexpr auto addmm_out = aoti_torch_cpu_addmm_out;
#endif
  TORCH_ERROR_CODE_CHECK(addmm_out(out.get(), out.get(), rows.get(), weight_t.get(), beta, 1.0));
}

// Says whether row_product runs a product of this kind faster than the platform does.
inline bool takes_row_product([[maybe_unused]] DType dtype, [[maybe_unused]] int64_t columns,
                              [[maybe_unused]] int64_t piece_size) {
#if defined(SIGE_CUDA) || defined(SIGE_CUDA_SHIM)
  return false;
#else
  return dtype == DType::kFloat32 && fits_row_product(columns, piece_size) && cpu::prefers_row_product();
#endif
}

}  // namespace sige
