// out (+)= rows W^T through the platform's library, or through row_product. The ops that multiply share it.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include <vector>
#if defined(SIGE_CUDA)
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cuda.h>
#endif

#include "common/op.h"
#if defined(SIGE_CUDA) || defined(SIGE_CUDA_SHIM)
#include "common/mapped_product.h"
#endif
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

// out = rows weight_t + beta * start.
inline void platform_product(const Tensor& rows,      // [M, K]
                             const Tensor& weight_t,  // [K, C_out]
                             double beta,
                             const Tensor& start,  // [M, C_out], `out` itself, or [C_out]
                             const Tensor& out) {  // [M, C_out]
#if defined(SIGE_CUDA)
  constexpr auto addmm_out = aoti_torch_cuda_addmm_out;
#else
  constexpr auto addmm_out = aoti_torch_cpu_addmm_out;
#endif
  TORCH_ERROR_CODE_CHECK(addmm_out(out.get(), start.get(), rows.get(), weight_t.get(), beta, 1.0));
}

// Rows first .. first + count of a tensor [M, K] or [B, N, K], as a matrix.
inline Tensor matrix_rows(const Tensor& tensor, int64_t first, int64_t count) {
  Tensor same = tensor;
  const int64_t last = tensor.dim() - 1, rows = tensor.size(0) * (last == 2 ? tensor.size(1) : 1);
  Tensor matrix = last == 1 ? same : torch::stable::view(same, {rows, tensor.size(last)});
  return count == rows ? matrix : torch::stable::narrow(matrix, 0, first, count);
}

// Rows first .. first + count of out = rows weight^T + bias + residual; on CUDA in one launch where row_product is
// the faster one.
inline void multiply_rows(const Launch& launch,
                          const Tensor& rows,              // [M, K] or [B, N, K], of which the first `count` rows
                          const Tensor& weight,            // [C_out, K]
                          const OptionalTensor& bias,      // [C_out] or [B, C_out]
                          const OptionalTensor& residual,  // [B, N, C_out]
                          const Tensor& out,               // [B, N, C_out]
                          int64_t first, int64_t count, DType dtype) {
  const bool starts = bias || residual;
#if defined(SIGE_CUDA) || defined(SIGE_CUDA_SHIM)
  MappedProductParams params = output_params(weight, bias, residual, out, first, count, dtype);
  params.source = {rows.const_data_ptr(), nullptr, count, 0, weight.size(1)};
  params.taps = 1;
  const SavedWork saved = {starts,
                           starts ? 4 * count * params.columns : 0};  // fill_rows, and the product that reads it
  if (takes_mapped_product(params, saved)) return run_mapped_product(launch, rows, params);
#endif
  if (starts) fill_out(launch, bias, residual, out, first, count, dtype);
  Tensor same = weight;
  const Tensor part = matrix_rows(out, first, count);
  platform_product(matrix_rows(rows, 0, count), torch::stable::transpose(same, 0, 1), starts ? 1.0 : 0.0, part, part);
}

// Says whether row_product runs a product of this kind faster than the platform does, on the CPU.
inline bool takes_row_product([[maybe_unused]] DType dtype, [[maybe_unused]] int64_t columns,
                              [[maybe_unused]] int64_t piece_size) {
#if defined(SIGE_CUDA) || defined(SIGE_CUDA_SHIM)
  return false;
#else
  return dtype == DType::kFloat32 && fits_row_product(columns, piece_size) && cpu::prefers_row_product();
#endif
}

#if !defined(SIGE_CUDA) && !defined(SIGE_CUDA_SHIM)
// Writes a linear layer of all rows into out, whose rows begin with `first`: what `linear` computes on the CPU.
inline void multiply_linear(const Launch& launch,
                            const Tensor& rows,              // [B, N, K]
                            const Tensor& weight,            // [C_out, K]
                            const OptionalTensor& bias,      // [C_out]
                            const OptionalTensor& residual,  // [B, N, C_out]
                            const Tensor& out,               // [S, N, C_out]
                            int64_t first, DType dtype) {
  // Up to this number of rows row_product is faster than the platform's product, above as fast (benchmarks/linear.py).
  constexpr int64_t kMostRows = 512;
  const int64_t count = rows.size(0) * rows.size(1), size = rows.size(2), columns = weight.size(0);
  if (count > kMostRows || !takes_row_product(dtype, columns, size)) {
    return multiply_rows(launch, rows, weight, bias, residual, out, first, count, dtype);
  }
  if (residual) fill_out(launch, bias, residual, out, first, count, dtype);
  std::vector<const float*> pieces(static_cast<size_t>(count));
  for (int64_t m = 0; m < count; ++m) pieces[m] = rows.const_data_ptr<float>() + m * size;
  cpu::row_product({pieces.data(), weight.const_data_ptr<float>(),
                    bias && !residual ? bias->const_data_ptr<float>() : nullptr,
                    out.mutable_data_ptr<float>() + first * columns, count, columns, 1, size, residual.has_value()});
}
#endif

}  // namespace sige
