// index_check on the CPU: one loop over the index, which takes little time beside the rows that the index names.
#include "index_check.h"

namespace sige::cpu {

int64_t first_invalid_index(const IndexCheckParams& params) {
  bool valid = true;
  for (int64_t slot = 0; slot < params.count; ++slot) valid &= index_is_valid(params, slot);
  if (valid) return -1;
  int64_t slot = 0;
  while (index_is_valid(params, slot)) ++slot;
  return slot;
}

}  // namespace sige::cpu
