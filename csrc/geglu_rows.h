// geglu_rows: the gated feed-forward's middle: one half of each row times the GELU of the other half.
#pragma once

#include "common/types.h"

namespace sige {

struct GegluRowsParams {
  const void* rows;   // [R, 2 C]: hidden, then gate
  void* out;          // [R, C]
  int64_t row_count;  // R
  int64_t channels;   // C
  DType dtype;        // of rows and out
};

namespace cpu {
void geglu_rows(const GegluRowsParams& params);
}
namespace cuda {
void geglu_rows(const GegluRowsParams& params, void* stream);
}

}  // namespace sige
