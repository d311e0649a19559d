// fill_rows: writes bias + residual, to which a matrix product is added. It is no op of its own: linear and
// sparse_conv2d start with it.
#pragma once

#include "common/types.h"

namespace sige {

struct FillRowsParams {
  const void* bias;      // [C] or null
  const void* residual;  // [R, C] or null
  void* out;             // [R, C]: bias + residual
  int64_t rows;          // R
  int64_t channels;      // C
  DType dtype;           // of bias, residual and out
};

namespace cpu {
void fill_rows(const FillRowsParams& params);
}
namespace cuda {
void fill_rows(const FillRowsParams& params, void* stream);
}

}  // namespace sige
