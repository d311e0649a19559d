// What tests/ops/test_last_block.py sees of the counters of common/last_block.cuh.
#include "common/last_block.cuh"

#define SIGE_EXPORT extern "C" __attribute__((visibility("default")))

// How many counters are not zero.
SIGE_EXPORT int64_t sige_counters_left() {
  using namespace sige::cuda;
  return std::count_if(std::begin(counter_slices), std::end(counter_slices), [](unsigned counter) { return counter; });
}

SIGE_EXPORT int64_t sige_counter_slice(void* stream) { return sige::cuda::counter_slice("a test", stream); }

SIGE_EXPORT int64_t sige_counter_slices() { return sige::cuda::kCounterSlices; }
