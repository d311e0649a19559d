// sige::blend_rows: checks, allocation, launch.
#include "blend_rows.h"
#include "common/term_arguments.h"

namespace sige {

static BlendRowsParams checked_terms(const Tensors& rows,      // [B, M, C] each
                                     const Tensor& weights) {  // fp64 [K], one for each of rows
  const char* op = "blend_rows";
  check_terms(op, "rows", rows);
  const Tensor& first = rows[0];
  check_shape({op, "rows[0]", first}, "[B, M, C]", {-1, -1, -1});
  BlendRowsParams params{};
  params.dtype = storage_dtype({op, "rows[0]", first});
  params.terms = static_cast<int64_t>(rows.size());
  params.batch = first.size(0);
  params.source_rows = first.size(1);
  params.channels = first.size(2);
  for (size_t k = 0; k < rows.size(); ++k) {
    const std::string name = term_name("rows", k);
    check_tensor({op, name.c_str(), rows[k]}, first, first.scalar_type(), "[B, M, C]",
                 {params.batch, params.source_rows, params.channels});
    params.rows[k] = rows[k].const_data_ptr();
  }
  check_weights(op, "weights", weights, rows);
  params.weights = weights.const_data_ptr<double>();
  return params;
}

Tensor blend_rows(const Tensors& rows,            // [B, M, C] each
                  const Tensor& weights,          // fp64 [K], one for each of rows
                  const OptionalTensor& index) {  // int32 [N]
  BlendRowsParams params = checked_terms(rows, weights);
  const Launch launch(rows[0]);
  params.row_count = params.source_rows;
  if (index) {
    check_tensor({"blend_rows", "index", *index}, rows[0], ScalarType::Int, "[N]", {-1});
    check_index({"blend_rows", "index", *index}, launch, 0, params.source_rows);
    params.index = index->const_data_ptr<int32_t>();
    params.row_count = index->size(0);
  }
  const Tensor out = new_tensor(rows[0], {params.batch, params.row_count, params.channels});
  params.out = out.mutable_data_ptr();
  launch.run(device::blend_rows, params);
  return out;
}

}  // namespace sige

SIGE_LIBRARY(m) { m.impl("blend_rows", TORCH_BOX(&sige::blend_rows)); }
