// sige::scatter: checks, launch. Mutates `dense`.
#include <vector>

#include "common/op.h"
#include "scatter.h"

namespace sige {

// Two rows for one position would be a race. The CPU op checks for it, because the check is cheap there.
static void check_no_duplicates([[maybe_unused]] const Tensor& index,  // int32 [N]
                                [[maybe_unused]] int64_t positions) {
#if !defined(SIGE_CUDA)
  const int32_t* entries = index.const_data_ptr<int32_t>();
  bool ascending = true;  // as a region's index is
  for (int64_t n = 1; n < index.numel(); ++n) ascending &= entries[n - 1] < entries[n];
  if (ascending) return;
  std::vector<bool> seen(static_cast<size_t>(positions));
  for (int64_t n = 0; n < index.numel(); ++n) {
    if (seen[entries[n]]) fail("scatter: index names position ", entries[n], " twice, expected each at most once");
    seen[entries[n]] = true;
  }
#endif
}

static ScatterParams scatter_params(const Tensor& dense, const Tensor& packed, const Tensor& index,
                                    const OptionalTensor& residual) {
  ScatterParams params{};
  params.dense = dense.mutable_data_ptr();
  params.packed = packed.const_data_ptr();
  params.residual = residual ? residual->const_data_ptr() : nullptr;
  params.index = index.const_data_ptr<int32_t>();
  params.batch = packed.size(0);
  params.rows = packed.size(1);
  params.channels = packed.size(2);
  params.width = dense.size(3);
  params.stride_b = dense.stride(0);
  params.stride_c = dense.stride(1);
  params.stride_h = dense.stride(2);
  params.stride_w = dense.stride(3);
  params.dtype = storage_dtype({"scatter", "dense", dense});
  return params;
}

void scatter(const Tensor& dense,               // [B, C, H, W], any strides
             const Tensor& packed,              // [B, N, C]
             const Tensor& index,               // int32 [N]
             const OptionalTensor& residual) {  // [B, N, C]
  const char* op = "scatter";
  check_shape({op, "dense", dense}, "[B, C, H, W]", {-1, -1, -1, -1});
  check_device({op, "dense", dense});
  const ScalarType dtype = dense.scalar_type();
  check_tensor({op, "packed", packed}, dense, dtype, "[B, N, C]", {dense.size(0), -1, dense.size(1)});
  check_tensor({op, "index", index}, dense, ScalarType::Int, "[N]", {packed.size(1)});
  if (residual) {
    check_tensor({op, "residual", *residual}, dense, dtype, "[B, N, C]",
                 {packed.size(0), packed.size(1), packed.size(2)});
  }
  const ScatterParams params = scatter_params(dense, packed, index, residual);
  const Launch launch(dense);
  check_index({op, "index", index}, launch, 0, dense.size(2) * dense.size(3));
  check_no_duplicates(index, dense.size(2) * dense.size(3));
  launch.run(device::scatter, params);
}

}  // namespace sige

SIGE_LIBRARY(m) { m.impl("scatter", TORCH_BOX(&sige::scatter)); }
