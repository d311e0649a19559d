// index_check: finds an index entry outside its range. Kernels use these entries as memory addresses.
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

// The first slot with an invalid entry, or -1. On CUDA it waits for the device, because the op's error names the slot:
// it is for debugging only, and no CUDA graph can hold it.
namespace cpu {
int64_t first_invalid_index(const IndexCheckParams& params);
}
namespace cuda {
int64_t first_invalid_index(const IndexCheckParams& params, void* stream);
}

}  // namespace sige
