// Runs the CUDA kernels of csrc/ on the CPU, to test them without a GPU. The same .cu file, compiled with
//
//   g++ -x c++ -std=c++17 -DSIGE_CUDA_SHIM -I csrc -I tests/shim/include -c csrc/gather.cu
//
// and linked with cuda_shim.cpp, has launchers that run every thread of a block as a fiber. Barriers, shared memory and
// shuffles behave as on a device; no two threads run at the same time. It shows
//   - a wrong index, under ASAN: the line of the access, in global, static and dynamic shared memory;
//   - a missing barrier: a wrong result in one of the orders of SIGE_SHIM_ORDER ("forward", the default, "reverse", or
//     a number that seeds a shuffle). Threads run one after the other from barrier to barrier; but for "forward", one
//     warp runs ahead of the others to the next barrier of the block;
//   - a missing wait for a copy: in the order "forward" cp.async copies as late as it may, when the thread waits. In
//     the other orders it copies at once, so a tile that is overwritten too early shows, too;
//   - a barrier that not every thread of the block reaches: std::runtime_error with the kernel's name and the line.
// Blocks run one after the other, in the same orders. Under SIGE_SHIM_CAPTURES=1 every stream says that it is being
// captured into a CUDA graph; the number is that of the capture.
// It does not show races between blocks, memory ordering, speed, or the alignment of vector accesses (UBSAN does).
//
// It defines the parts of cuda_runtime.h, cuda_fp16.h and cuda_bf16.h that the kernels use, and no others.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static  // one block runs at a time
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// Of the thread that runs: the scheduler sets them on every switch.
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace sige_shim {

// Runs `body` once for every thread of every block.
void run_grid(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body);

void* dynamic_shared();                                                 // of the block that runs
void wait_for_block(const char* function, const char* file, int line);  // __syncthreads()
[[noreturn]] void fail(const char* message);                            // ends the launch with std::runtime_error

// Shows `bytes` of this thread to its warp and waits for the other lanes; `of_all` gets what all 32 showed. `line`
// tells one collective function from another: all lanes must come to the same.
void exchange_in_warp(const void* mine, size_t bytes, void* of_all, const char* function, int line);
unsigned lane();

template <typename Value>
std::array<Value, 32> show_to_warp(const Value& mine, const char* function, int line) {
  std::array<Value, 32> of_all;
  exchange_in_warp(&mine, sizeof(Value), of_all.data(), function, line);
  return of_all;
}

// cp.async: copies of this thread, in groups. A null `from` stands for zeros.
void start_copy(void* to, const void* from, size_t bytes);
void commit_copies();
void wait_copies(size_t pending);

inline int allocations = 0;  // calls of cudaMalloc, which the tests count
inline int launches = 0;     // of kernels

}  // namespace sige_shim

#define __syncthreads() sige_shim::wait_for_block(__func__, __FILE__, __LINE__)
#define __syncwarp() sige_shim::show_to_warp(0, "__syncwarp", __LINE__)
#define SIGE_DEVICE_ARRAY inline
#define SIGE_DYNAMIC_SHARED(type, name) type* const name = static_cast<type*>(sige_shim::dynamic_shared())

// ---- vector types: they overlay arrays of other types, as CUDA's own do ----

struct alignas(8) float2 {
  float x, y;
} __attribute__((may_alias));
struct alignas(16) float4 {
  float x, y, z, w;
} __attribute__((may_alias));
struct alignas(8) uint2 {
  uint32_t x, y;
} __attribute__((may_alias));
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
} __attribute__((may_alias));

inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// ---- half precision: storage and conversions, rounding to nearest even ----

struct __half {
  uint16_t bits;
};
struct __nv_bfloat16 {
  uint16_t bits;
};

inline uint32_t float_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}

inline float bits_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

inline float __bfloat162float(__nv_bfloat16 value) { return bits_float(static_cast<uint32_t>(value.bits) << 16); }

inline __nv_bfloat16 __float2bfloat16_rn(float value) {
  if (std::isnan(value)) return {0x7fff};
  const uint32_t bits = float_bits(value);
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

inline float __half2float(__half value) {
  const int exponent = value.bits >> 10 & 0x1f, mantissa = value.bits & 0x3ff;
  float magnitude;
  if (exponent == 0x1f) {
    magnitude = mantissa ? NAN : INFINITY;
  } else if (exponent == 0) {
    magnitude = std::ldexp(static_cast<float>(mantissa), -24);
  } else {
    magnitude = std::ldexp(static_cast<float>(mantissa + 0x400), exponent - 25);
  }
  return value.bits >> 15 ? -magnitude : magnitude;
}

inline __half __float2half_rn(float value) {
  const uint16_t sign = static_cast<uint16_t>(float_bits(value) >> 16 & 0x8000);
  const float magnitude = std::fabs(value);
  if (std::isnan(value)) return {0x7fff};
  if (magnitude == 0.0f) return {sign};
  if (magnitude >= 65520.0f) return {static_cast<uint16_t>(sign | 0x7c00)};  // rounds up to infinity
  int exponent = 0;
  (void)std::frexp(magnitude, &exponent);         // magnitude = f * 2^exponent, f in [0.5, 1)
  const int last = std::max(exponent - 11, -24);  // the last place is worth 2^last
  const int steps = static_cast<int>(std::nearbyint(std::ldexp(magnitude, -last)));
  return {static_cast<uint16_t>(sign | (((last + 24) << 10) + steps))};  // a carry moves into the exponent
}

// ---- device functions ----

using std::max;
using std::min;

template <typename T>
inline T __ldg(const T* from) {
  return *from;
}
template <typename T>
inline T __ldcg(const T* from) {
  return *from;
}
inline float __fdividef(float a, float b) { return a / b; }
inline float __shfl_xor_sync(unsigned, float value, int lane_mask) {
  return sige_shim::show_to_warp(value, "a warp shuffle",
                                 __LINE__)[sige_shim::lane() ^ static_cast<unsigned>(lane_mask)];
}
inline int __shfl_sync(unsigned, int value, int lane) {
  return sige_shim::show_to_warp(value, "a warp shuffle", __LINE__)[static_cast<unsigned>(lane) % 32];
}
inline unsigned __ballot_sync(unsigned, bool mine) {
  const auto votes = sige_shim::show_to_warp(mine, "a warp vote", __LINE__);
  unsigned ballot = 0;
  for (unsigned lane = 0; lane < 32; ++lane) ballot |= unsigned{votes[lane]} << lane;
  return ballot;
}
inline unsigned long long atomicMin(unsigned long long* address, unsigned long long value) {
  const unsigned long long old = *address;
  *address = std::min(old, value);
  return old;
}
inline unsigned atomicInc(unsigned* address, unsigned last) {
  const unsigned old = *address;
  *address = old >= last ? 0 : old + 1;
  return old;
}
inline void __threadfence() {}

// ---- runtime: the device's memory is the host's, every stream is done at once ----

enum cudaError_t {
  cudaSuccess,
  cudaErrorMemoryAllocation,
  cudaErrorInvalidDeviceFunction,
  cudaErrorNoKernelImageForDevice
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone, cudaStreamCaptureStatusActive };
enum cudaDeviceAttr {
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor,
  cudaDevAttrMultiProcessorCount
};
using cudaStream_t = void*;

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

inline const char* cudaGetErrorString(cudaError_t) { return "error in the CUDA shim"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  return *value = attribute == cudaDevAttrMultiProcessorCount ? 4 : 0, cudaSuccess;
}
inline cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = std::getenv("SIGE_SHIM_CAPTURES") ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
inline cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* status,
                                            unsigned long long* capture) {
  const char* number = std::getenv("SIGE_SHIM_CAPTURES");
  return *capture = number ? std::stoull(number) : 0, cudaStreamIsCapturing(stream, status);
}
inline cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  ++sige_shim::allocations;
  *pointer = ::operator new(bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  return memset(to, value, bytes), cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  return memcpy(to, from, bytes), cudaSuccess;
}

template <typename... Parameters>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Parameters... arguments) {
  ++sige_shim::launches;
  sige_shim::run_grid(config->gridDim, config->blockDim, config->dynamicSmemBytes, [&] { kernel(arguments...); });
  return cudaSuccess;
}
