// The arguments that gather and sparse_conv2d have in common, checked once and turned into GatherParams.
#pragma once

#include "common/op.h"
#include "gather.h"

namespace sige {

inline void check_rows(const char* op, const Tensor& packed, const Tensor& recorded) {
  check_shape({op, "packed", packed}, "[B, N, C]", {-1, -1, -1});
  check_tensor({op, "packed", packed}, packed, packed.scalar_type(), "[B, N, C]", {-1, -1, -1});
  check_tensor({op, "recorded", recorded}, packed, packed.scalar_type(), "[B, M, C]",
               {packed.size(0), -1, packed.size(2)});
}

// The parameters that gather all rows of the index; the caller sets `out`.
inline GatherParams gather_params(const char* op, const Launch& launch,
                                  const Tensor& packed,         // [B, N, C]
                                  const Tensor& recorded,       // [B, M, C]
                                  const Tensor& index,          // int32 [N_out, T]
                                  const OptionalTensor& scale,  // fp32 [B, C]
                                  const OptionalTensor& shift,  // fp32 [B, C]
                                  int64_t activation) {
  check_rows(op, packed, recorded);
  const int64_t batch = packed.size(0), channels = packed.size(2);
  check_tensor({op, "index", index}, packed, ScalarType::Int, "[N_out, T]", {-1, -1});
  if (scale.has_value() != shift.has_value()) {
    fail(op, ": scale and shift go together, got only ", scale ? "scale" : "shift");
  }
  if (scale) {
    check_tensor({op, "scale", *scale}, packed, ScalarType::Float, "[B, C]", {batch, channels});
    check_tensor({op, "shift", *shift}, packed, ScalarType::Float, "[B, C]", {batch, channels});
  }
  check_index({op, "index", index}, launch, -1, packed.size(1) + recorded.size(1));

  GatherParams params{};
  params.source = {packed.const_data_ptr(), recorded.const_data_ptr(), packed.size(1), recorded.size(1), channels};
  params.index = index.const_data_ptr<int32_t>();
  params.scale = scale ? scale->const_data_ptr<float>() : nullptr;
  params.shift = shift ? shift->const_data_ptr<float>() : nullptr;
  params.out_rows = index.size(0);
  params.taps = index.size(1);
  params.first_row = 0;
  params.row_count = batch * index.size(0);
  params.dtype = storage_dtype({op, "packed", packed});
  params.activation = checked_activation(op, activation);
  return params;
}

}  // namespace sige
