// sige::linear: a linear layer on packed rows, with the residual added on the way.
#include <vector>

#include "common/product.h"

namespace sige {

// Up to this number of rows row_product is faster than the platform's product, above as fast (benchmarks/linear.py).
[[maybe_unused]] static constexpr int64_t kMostRows = 512;

#if !defined(SIGE_CUDA) && !defined(SIGE_CUDA_SHIM)
static void own_product(const Tensor& rows,          // [B, N, K]
                        const Tensor& weight,        // [C_out, K]
                        const OptionalTensor& bias,  // [C_out]
                        bool accumulate,
                        const Tensor& out) {  // [B, N, C_out]
  const int64_t count = rows.size(0) * rows.size(1), size = rows.size(2);
  std::vector<const float*> pieces(static_cast<size_t>(count));
  for (int64_t m = 0; m < count; ++m) pieces[m] = rows.const_data_ptr<float>() + m * size;
  cpu::row_product({pieces.data(), weight.const_data_ptr<float>(),
                    bias && !accumulate ? bias->const_data_ptr<float>() : nullptr, out.mutable_data_ptr<float>(), count,
                    weight.size(0), 1, size, accumulate});
}
#endif

Tensor linear(const Tensor& rows,                // [B, N, C]
              const Tensor& weight,              // [C_out, C]
              const OptionalTensor& bias,        // [C_out]
              const OptionalTensor& residual) {  // [B, N, C_out]
  const char* op = "linear";
  const ScalarType type = rows.scalar_type();
  check_tensor({op, "rows", rows}, rows, type, "[B, N, C]", {-1, -1, -1});
  check_tensor({op, "weight", weight}, rows, type, "[C_out, C]", {-1, rows.size(2)});
  const int64_t batch = rows.size(0), count = rows.size(1), channels = weight.size(0);
  if (bias) check_tensor({op, "bias", *bias}, rows, type, "[C_out]", {channels});
  if (residual) check_tensor({op, "residual", *residual}, rows, type, "[B, N, C_out]", {batch, count, channels});
  const DType dtype = storage_dtype({op, "rows", rows});

  const Launch launch(rows);
  Tensor out = new_tensor(rows, {batch, count, channels});
  if (out.numel() == 0) return out;
#if !defined(SIGE_CUDA) && !defined(SIGE_CUDA_SHIM)
  if (batch * count <= kMostRows && takes_row_product(dtype, channels, rows.size(2))) {
    if (residual) fill_out(launch, bias, residual, out, 0, batch * count, dtype);
    own_product(rows, weight, bias, residual.has_value(), out);
    return out;
  }
#endif
  multiply_rows(launch, rows, weight, bias, residual, out, 0, batch * count, dtype);
  return out;
}

}  // namespace sige

SIGE_LIBRARY(m) { m.impl("linear", TORCH_BOX(&sige::linear)); }
