// Launches kernels, each in the same way: no launch without work; a grid within the limits; the caller's stream; an
// error that names the kernel. The caller makes the device current: `Launch` of common/op.h does.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "common/packed128.cuh"
#include "common/types.h"

// tests/shim defines its own: shared memory there is an ordinary allocation.
#ifndef SIGE_DYNAMIC_SHARED
#define SIGE_DYNAMIC_SHARED(type, name) extern __shared__ __align__(16) type name[]
#endif

// Kernels step through their work by gridDim.x, so a limit on the grid costs nothing, and no count of blocks can
// overflow. The tests lower the limit, so that kernels take several steps.
#ifndef SIGE_MAX_BLOCKS
#define SIGE_MAX_BLOCKS (1 << 20)
#endif

namespace sige::cuda {

constexpr int64_t kMaxBlocks = SIGE_MAX_BLOCKS;
constexpr size_t kDefaultSharedBytes = 48 * 1024;  // a kernel that needs more has to ask for it

struct LaunchShape {
  int64_t blocks;           // work items along x; a kernel steps by gridDim.x where there are more than kMaxBlocks
  dim3 threads;             // per block
  int64_t columns = 1;      // gridDim.y, at most 65535
  size_t shared_bytes = 0;  // dynamic shared memory
};

// The compute capability of the current device, such as "9.0", as SIGE_CUDA_ARCHS takes it.
inline std::string device_capability() {
  int device = 0, major = 0, minor = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) != cudaSuccess) {
    return "<its compute capability>";
  }
  return std::to_string(major) + "." + std::to_string(minor);
}

inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  (void)cudaGetLastError();  // an error that does not break the context must not fail the next launch as well
  std::string message = std::string("sige: ") + what + ": " + cudaGetErrorString(status);
  if (status == cudaErrorNoKernelImageForDevice || status == cudaErrorInvalidDeviceFunction) {
    message += ". This SIGE build has no code for this GPU: rebuild with SIGE_CUDA_ARCHS=" + device_capability();
  }
  throw std::runtime_error(message);
}

template <typename... Parameters, typename... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), const LaunchShape& shape, void* stream,
            Arguments... arguments) {
  if (shape.blocks <= 0 || shape.columns <= 0) return;
  if (shape.shared_bytes > kDefaultSharedBytes) {
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shape.shared_bytes)),
          name);
  }
  cudaLaunchConfig_t config = {};
  config.gridDim =
      dim3(static_cast<unsigned>(std::min(shape.blocks, kMaxBlocks)), static_cast<unsigned>(shape.columns));
  config.blockDim = shape.threads;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  check(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...), name);
}

template <typename T>
struct TypeTag {
  using type = T;
};

// Calls `body(TypeTag<T>{})` with the storage type of `dtype`.
template <typename Body>
void dispatch_dtype(DType dtype, Body body) {
  switch (dtype) {
    case DType::kFloat32:
      return body(TypeTag<float>{});
    case DType::kFloat16:
      return body(TypeTag<__half>{});
    case DType::kBFloat16:
      return body(TypeTag<__nv_bfloat16>{});
  }
  throw std::runtime_error("sige: unknown storage type " + std::to_string(static_cast<int>(dtype)));
}

}  // namespace sige::cuda
