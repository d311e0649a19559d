// A device guard for "cuda" that does nothing. A CPU build of torch has none, and asks for one before many calls on a
// CUDA tensor, also where the tensor is fake. benchmarks/fake_cuda.py compiles and loads this file; nothing else does.
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace c10::impl {
C10_REGISTER_GUARD_IMPL(CUDA, NoOpDeviceGuardImpl<DeviceType::CUDA>)
}  // namespace c10::impl
