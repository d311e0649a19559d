// The parts that every *_op.cpp uses: argument checks with full messages, and the device that the library is built for.
//
// An op file is compiled once per library: for the CPU library as it is, for the CUDA library with -DSIGE_CUDA, for the
// tests' CPU shim of the CUDA kernels with -DSIGE_CUDA_SHIM.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdlib>
#include <cstring>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>

#include "common/types.h"
#include "index_check.h"

#if defined(SIGE_CUDA)
#define SIGE_LIBRARY(m) STABLE_TORCH_LIBRARY_IMPL(sige, CUDA, m)
#define SIGE_DEVICE_NAME "cuda"
#elif defined(SIGE_CUDA_SHIM)
#define SIGE_LIBRARY(m) STABLE_TORCH_LIBRARY_IMPL(sige_shim, CPU, m)
#define SIGE_DEVICE_NAME "cpu"
#else
#define SIGE_LIBRARY(m) STABLE_TORCH_LIBRARY_IMPL(sige, CPU, m)
#define SIGE_DEVICE_NAME "cpu"
#endif

namespace sige {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

// ---- messages -------------------------------------------------------------------------------------------------

template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

inline std::string shape_text(const int64_t* sizes, size_t dims) {
  std::ostringstream text;
  text << "[";
  for (size_t d = 0; d < dims; ++d) text << (d ? ", " : "") << sizes[d];
  text << "]";
  return text.str();
}

inline std::string shape_text(const Tensor& tensor) {
  return shape_text(tensor.sizes().data(), static_cast<size_t>(tensor.dim()));
}

inline const char* dtype_text(ScalarType type) {
  switch (type) {
    case ScalarType::Float:
      return "float32";
    case ScalarType::Half:
      return "float16";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Double:
      return "float64";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Long:
      return "int64";
    case ScalarType::Bool:
      return "bool";
    default:
      return "another dtype";
  }
}

// ---- checks: op and name first, then what is expected ---------------------------------------------------------

struct Argument {
  const char* op;
  const char* name;
  const Tensor& tensor;
};

inline void check_device(const Argument& a) {
#if defined(SIGE_CUDA)
  const bool right = a.tensor.is_cuda();
#else
  const bool right = a.tensor.is_cpu();
#endif
  if (!right) fail(a.op, ": ", a.name, " is on another device, expected " SIGE_DEVICE_NAME " like the other tensors");
}

inline void check_same_device(const Argument& a, const Tensor& first) {
  check_device(a);
  if (a.tensor.get_device_index() != first.get_device_index()) {
    fail(a.op, ": ", a.name, " is on " SIGE_DEVICE_NAME ":", a.tensor.get_device_index(),
         ", expected " SIGE_DEVICE_NAME ":", first.get_device_index(), " like the other tensors");
  }
}

inline void check_dtype(const Argument& a, ScalarType expected) {
  if (a.tensor.scalar_type() != expected) {
    fail(a.op, ": ", a.name, " has dtype ", dtype_text(a.tensor.scalar_type()), ", expected ", dtype_text(expected));
  }
}

inline void check_contiguous(const Argument& a) {
  if (!a.tensor.is_contiguous()) {
    fail(a.op, ": ", a.name, " has strides ", shape_text(a.tensor.strides().data(), a.tensor.dim()), " for shape ",
         shape_text(a.tensor), ", expected a contiguous tensor (call .contiguous())");
  }
}

// `letters` names the dimensions for the message; an expected size of -1 takes any size.
inline void check_shape(const Argument& a, const char* letters, std::initializer_list<int64_t> expected) {
  bool right = a.tensor.dim() == static_cast<int64_t>(expected.size());
  size_t d = 0;
  for (const int64_t size : expected) {
    right = right && (size < 0 || a.tensor.size(static_cast<int64_t>(d)) == size);
    ++d;
  }
  if (right) return;
  std::ostringstream wanted;
  wanted << "[";
  d = 0;
  for (const int64_t size : expected) {
    wanted << (d++ ? ", " : "");
    size < 0 ? wanted << "any" : wanted << size;
  }
  fail(a.op, ": ", a.name, " has shape ", shape_text(a.tensor), ", expected ", letters, " = ", wanted.str(), "]");
}

// All checks above for one argument; `first` is the op's first tensor.
inline void check_tensor(const Argument& a, const Tensor& first, ScalarType dtype, const char* letters,
                         std::initializer_list<int64_t> shape) {
  check_shape(a, letters, shape);
  check_dtype(a, dtype);
  check_same_device(a, first);
  check_contiguous(a);
}

inline DType storage_dtype(const Argument& a) {
  switch (a.tensor.scalar_type()) {
    case ScalarType::Float:
      return DType::kFloat32;
    case ScalarType::Half:
      return DType::kFloat16;
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    default:
      fail(a.op, ": ", a.name, " has dtype ", dtype_text(a.tensor.scalar_type()),
           ", expected float32, float16 or bfloat16");
  }
}

inline Activation checked_activation(const char* op, int64_t activation) {
  if (activation != 0 && activation != 1) {
    fail(op, ": activation is ", activation, ", expected 0 (none) or 1 (silu)");
  }
  return static_cast<Activation>(activation);
}

// ---- allocation -----------------------------------------------------------------------------------------------

// A new contiguous tensor on the device of `like`, straight from the allocator: a call through torch's dispatcher takes
// longer than many a small kernel.
inline Tensor new_tensor(const Tensor& like, std::initializer_list<int64_t> sizes, ScalarType type) {
  int64_t strides[8];
  int64_t stride = 1;
  for (size_t d = sizes.size(); d-- > 0;) {
    strides[d] = stride;
    const int64_t size = sizes.begin()[d];
    stride *= size > 1 ? size : 1;
  }
  int32_t device = 0, index = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &index));
  const auto dtype = torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
  AtenTensorHandle made = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.begin(), strides, dtype,
                                                  device, index, &made));
  return Tensor(made);
}

inline Tensor new_tensor(const Tensor& like, std::initializer_list<int64_t> sizes) {
  return new_tensor(like, sizes, like.scalar_type());
}

// ---- device ---------------------------------------------------------------------------------------------------

// Makes the tensor's device current and knows its stream; nothing to do on the CPU.
class Launch {
 public:
#if defined(SIGE_CUDA)
  explicit Launch(const Tensor& tensor) : guard_(tensor.get_device_index()) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream_));
  }
#else
  explicit Launch(const Tensor&) {}
#endif

  // Runs the kernel of this library's device: launch.run(device::gather, params) calls cpu::gather, or cuda::gather
  // with the stream.
  template <typename Kernel, typename Params>
  auto run(Kernel kernel, const Params& params) const {
#if defined(SIGE_CUDA) || defined(SIGE_CUDA_SHIM)
    return kernel(params, stream_);
#else
    return kernel(params);
#endif
  }

 private:
#if defined(SIGE_CUDA)
  torch::stable::accelerator::DeviceGuard guard_;
#endif
  [[maybe_unused]] void* stream_ = nullptr;
};

#if defined(SIGE_CUDA) || defined(SIGE_CUDA_SHIM)
namespace device = cuda;
#else
namespace device = cpu;
#endif

// The CPU ops check an index at every call, which costs little. On CUDA the check waits for the device, so the ops make
// it only under SIGE_CHECK_INDICES=1. The variable is read at every call, which takes some 60 ns, so that a process can
// change it.
inline bool checks_indices() {
#if defined(SIGE_CUDA)
  const char* wanted = std::getenv("SIGE_CHECK_INDICES");
  return wanted && *wanted && std::strcmp(wanted, "0") != 0;
#else
  return true;
#endif
}

inline void check_index(const Argument& a, const Launch& launch, int64_t low, int64_t high) {
  if (!checks_indices() || a.tensor.numel() == 0) return;
  const IndexCheckParams params{a.tensor.const_data_ptr<int32_t>(), a.tensor.numel(), low, high};
  const int64_t slot = launch.run(device::first_invalid_index, params);
  if (slot < 0) return;
  fail(a.op, ": ", a.name, " has an entry out of range at flat position ", slot, ", expected every entry in [", low,
       ", ", high, ")");
}

}  // namespace sige
