// index_check: is every entry of an index inside its range? Kernels read memory by these numbers.
#pragma once

#include "common/types.h"

namespace sige {

struct IndexCheckParams {
  const int32_t* index;  // [count]
  int64_t count;
  int64_t low;   // smallest valid entry
  int64_t high;  // one past the largest valid entry
};

SIGE_HOST_DEVICE inline bool index_is_valid(const IndexCheckParams& params, int64_t slot) {
  return params.index[slot] >= params.low && params.index[slot] < params.high;
}

// The first slot with an invalid entry, or -1. The CUDA one waits for the device: for debugging only.
namespace cpu {
int64_t first_invalid_index(const IndexCheckParams& params);
}
namespace cuda {
int64_t first_invalid_index(const IndexCheckParams& params, void* stream);
}

}  // namespace sige
