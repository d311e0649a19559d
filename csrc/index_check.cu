#include "common/launch.cuh"
#include "index_check.h"

namespace sige::cuda {
namespace {

// ---------------------------------------------------------------------------------------------------------------
// Kernels
// ---------------------------------------------------------------------------------------------------------------

constexpr int kCheckThreads = 256;

// A thread uses the atomic only for its first invalid entry, which has its smallest slot.
__global__ void __launch_bounds__(kCheckThreads)
    index_check_kernel(const IndexCheckParams params, long long* first_invalid) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kCheckThreads;
  for (int64_t slot = static_cast<int64_t>(blockIdx.x) * kCheckThreads + threadIdx.x; slot < params.count;
       slot += step) {
    if (index_is_valid(params, slot)) continue;
    atomicMin(first_invalid, static_cast<long long>(slot));
    return;
  }
}

// ---------------------------------------------------------------------------------------------------------------
// Launchers
// ---------------------------------------------------------------------------------------------------------------

// One number on the device. cudaMalloc waits for the device: this check is for debugging.
class DeviceNumber {
 public:
  DeviceNumber() { check(cudaMalloc(reinterpret_cast<void**>(&pointer_), sizeof(long long)), "index_check"); }
  ~DeviceNumber() { (void)cudaFree(pointer_); }
  DeviceNumber(const DeviceNumber&) = delete;
  DeviceNumber& operator=(const DeviceNumber&) = delete;

  long long* pointer() const { return pointer_; }

 private:
  long long* pointer_ = nullptr;
};

}  // namespace

int64_t first_invalid_index(const IndexCheckParams& params, void* stream) {
  if (params.count <= 0) return -1;
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  const DeviceNumber number;
  long long first = params.count;
  check(cudaMemcpyAsync(number.pointer(), &first, sizeof(first), cudaMemcpyHostToDevice, cuda_stream), "index_check");
  launch("index_check", index_check_kernel, {ceil_div(params.count, kCheckThreads), dim3(kCheckThreads)}, stream,
         params, number.pointer());
  check(cudaMemcpyAsync(&first, number.pointer(), sizeof(first), cudaMemcpyDeviceToHost, cuda_stream), "index_check");
  check(cudaStreamSynchronize(cuda_stream), "index_check");
  return first < params.count ? first : -1;
}

}  // namespace sige::cuda
