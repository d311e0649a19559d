// A kernel whose blocks share the work for one tile, and which needs no second launch to put their parts together: the
// block that comes last does it.
//
//   1. Every block writes its part of a tile into a workspace, and calls `is_last_block` with the tile's counter.
//   2. The call counts the block. It returns true in one block of the tile: the one that finds all others counted. By
//      then their parts are in memory. That block reads all parts, also its own, with __ldcg, past the L1 cache.
//   3. It adds them in an order that follows from their numbers, not from the order in which the blocks came. So the
//      sum has the same bits whichever block is last.
//
// The counters lie in the device's memory from the start, and begin with zeros: nothing is allocated or cleared at a
// launch, so the first launch may be one that a CUDA graph captures. The last block leaves its counter at zero.
//
// Two kernels that run at the same time must not share a counter. Kernels of one stream run one after the other, so
// each stream has a slice of the counters for itself. So has each stream of each capture: a graph may run beside other
// graphs and beside the stream that captured it. CUDA never runs one graph twice at a time. There are kCounterSlices
// slices; the next stream or capture takes the oldest slice over. Two graphs then share one, which does no harm unless
// both run at the same time: it takes kCounterSlices captures in one process between the two.
#pragma once

#include <array>
#include <mutex>

#include "common/launch.cuh"

// tests/shim has one array for the whole library. Here each file that includes this header has its own, as nvcc wants.
#ifndef SIGE_DEVICE_ARRAY
#define SIGE_DEVICE_ARRAY static __device__
#endif

namespace sige::cuda {

constexpr int kMostCounters = 4096;  // of one launch
constexpr int kCounterSlices = 256;  // 4 MB with all their counters

SIGE_DEVICE_ARRAY unsigned counter_slices[kCounterSlices * kMostCounters];

// Says whether this block is the last of `parts` that call with this counter of the slice. All threads of the block
// call it, and all get the same answer.
__device__ inline bool is_last_block(int slice, int counter, int parts) {
  __shared__ bool last;
  __syncthreads();  // the whole block has written its part, and has read `last` of the call before
  if (parts == 1) return true;
  if (threadIdx.x == 0 && threadIdx.y == 0) {
    __threadfence();  // the block's part is in memory before the block is counted ...
    const auto before_last = static_cast<unsigned>(parts - 1);
    last = atomicInc(&counter_slices[slice * kMostCounters + counter], before_last) == before_last;  // then it is 0
    __threadfence();  // ... and the others' parts are read after that
  }
  __syncthreads();
  return last;
}

// The slice of the counters for a launch on the stream.
inline int counter_slice(const char* name, void* stream) {
  struct Owner {
    void* stream;
    unsigned long long capture;  // 0 outside of captures

    bool operator==(const Owner& other) const { return stream == other.stream && capture == other.capture; }
  };
  static std::mutex mutex;
  static std::array<Owner, kCounterSlices> owners;
  static int64_t count = 0;  // of owners so far, also of those whose slice another has now

  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  unsigned long long capture = 0;
  check(cudaStreamGetCaptureInfo(static_cast<cudaStream_t>(stream), &status, &capture), name);
  const Owner owner = {stream, status == cudaStreamCaptureStatusNone ? 0 : capture};
  const std::lock_guard<std::mutex> lock(mutex);
  const auto end = owners.begin() + std::min<int64_t>(count, kCounterSlices);
  const auto found = std::find(owners.begin(), end, owner);
  if (found != end) return static_cast<int>(found - owners.begin());
  const auto oldest = static_cast<int>(count++ % kCounterSlices);
  owners[static_cast<size_t>(oldest)] = owner;
  return oldest;
}

}  // namespace sige::cuda
