// time_table: what every residual block adds for the time, by all their layers in one launch. Weights are read in
// place.
#pragma once

#include "common/types.h"

namespace sige {

constexpr int64_t kMostTables = 64;  // layers of one call; sige/ops/time_table.py holds the same number

struct TimeTableParams {
  const void* time;                  // [B, E]
  const void* weights[kMostTables];  // [C_k, E] each, the first `layers` of them
  const void* biases[kMostTables];   // [C_k] each
  const void* added[kMostTables];    // [C_k] each
  int32_t firsts[kMostTables + 1];   // the column of `out` where layer k begins; the last is the sum of all C_k
  void* out;                         // [B, sum of C_k]
  int64_t layers;
  int64_t batch;  // B
  int64_t size;   // E
  DType dtype;    // of all tensors
};

// The layer that makes a column of `out`.
SIGE_HOST_DEVICE inline int64_t layer_of(const TimeTableParams& params, int64_t column) {
  int64_t low = 0, high = params.layers;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (params.firsts[middle] <= column ? low : high) = middle;
  }
  return low;
}

namespace cpu {
void time_table(const TimeTableParams& params);
}
namespace cuda {
void time_table(const TimeTableParams& params, void* stream);
}

}  // namespace sige
