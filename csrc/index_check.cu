#include <array>
#include <mutex>

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
    index_check_kernel(const IndexCheckParams params, unsigned long long* first_invalid) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kCheckThreads;
  for (int64_t slot = static_cast<int64_t>(blockIdx.x) * kCheckThreads + threadIdx.x; slot < params.count;
       slot += step) {
    if (index_is_valid(params, slot)) continue;
    atomicMin(first_invalid, static_cast<unsigned long long>(slot));
    return;
  }
}

// ---------------------------------------------------------------------------------------------------------------
// Launchers
// ---------------------------------------------------------------------------------------------------------------

constexpr int kMostDevices = 64;

// One number in the memory of each device. It is allocated at a device's first check and never freed: at the
// end of a process the driver may be gone first. Whoever holds `mutex` has the number for itself.
struct DeviceNumber {
  std::mutex mutex;
  unsigned long long* pointer = nullptr;
};

DeviceNumber& number_of_current_device() {
  static std::array<DeviceNumber, kMostDevices> numbers;
  int device = 0;
  check(cudaGetDevice(&device), "index_check");
  return numbers.at(static_cast<size_t>(device));
}

void refuse_capture(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(stream, &status), "index_check");
  if (status == cudaStreamCaptureStatusNone) return;
  throw std::runtime_error(
      "sige: index_check: a CUDA graph cannot hold this check, which waits for the device: unset SIGE_CHECK_INDICES "
      "while you capture");
}

}  // namespace

int64_t first_invalid_index(const IndexCheckParams& params, void* stream) {
  if (params.count <= 0) return -1;
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  refuse_capture(cuda_stream);
  DeviceNumber& number = number_of_current_device();
  const std::lock_guard<std::mutex> lock(number.mutex);
  unsigned long long first = 0;
  if (!number.pointer) check(cudaMalloc(reinterpret_cast<void**>(&number.pointer), sizeof(first)), "index_check");
  check(cudaMemsetAsync(number.pointer, 0xff, sizeof(first), cuda_stream), "index_check");  // more than any slot
  launch("index_check", index_check_kernel, {ceil_div(params.count, kCheckThreads), dim3(kCheckThreads)}, stream,
         params, number.pointer);
  check(cudaMemcpyAsync(&first, number.pointer, sizeof(first), cudaMemcpyDeviceToHost, cuda_stream), "index_check");
  check(cudaStreamSynchronize(cuda_stream), "index_check");
  return first < static_cast<unsigned long long>(params.count) ? static_cast<int64_t>(first) : -1;
}

}  // namespace sige::cuda
