// sige::linear: a linear layer on packed rows, with the residual added on the way.
#include "common/product.h"

namespace sige {

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
#if defined(SIGE_CUDA) || defined(SIGE_CUDA_SHIM)
  multiply_rows(launch, rows, weight, bias, residual, out, 0, batch * count, dtype);
#else
  multiply_linear(launch, rows, weight, bias, residual, out, 0, dtype);
#endif
  return out;
}

}  // namespace sige

SIGE_LIBRARY(m) { m.impl("linear", TORCH_BOX(&sige::linear)); }
