// sige::geglu_rows: checks, allocation, launch.
#include "common/op.h"
#include "geglu_rows.h"

namespace sige {

Tensor geglu_rows(const Tensor& rows) {  // [B, N, 2 C]
  const char* op = "geglu_rows";
  check_tensor({op, "rows", rows}, rows, rows.scalar_type(), "[B, N, 2 C]", {-1, -1, -1});
  if (rows.size(2) % 2) fail(op, ": rows has ", rows.size(2), " channels, expected an even number");
  GegluRowsParams params{};
  params.dtype = storage_dtype({op, "rows", rows});
  params.row_count = rows.size(0) * rows.size(1);
  params.channels = rows.size(2) / 2;
  const Launch launch(rows);
  const Tensor out = new_tensor(rows, {rows.size(0), rows.size(1), params.channels});
  if (out.numel() == 0) return out;
  params.rows = rows.const_data_ptr();
  params.out = out.mutable_data_ptr();
  launch.run(device::geglu_rows, params);
  return out;
}

}  // namespace sige

SIGE_LIBRARY(m) { m.impl("geglu_rows", TORCH_BOX(&sige::geglu_rows)); }
