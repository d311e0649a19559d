// Division by a number that is known before a kernel starts: a multiplication and a shift. A GPU has no instruction for
// a 64-bit division; the subroutine in its place takes more than a hundred.
#pragma once

#include "common/types.h"

namespace sige {

// `n / divisor` and `n % divisor` for 0 <= n < 2^63, exactly. The host makes it once for each launch.
//
// With 2^shift < divisor <= 2^(shift + 1), the multiplier is floor(2^(64 + shift) / divisor) + 1. It exceeds the exact
// ratio by at most one part in 2^63, which does not carry n / divisor over to the next integer (Granlund and
// Montgomery, 1994, theorem 4.2).
class FastDivisor {
 public:
  explicit FastDivisor(int64_t divisor) : divisor_(divisor) {
    if (divisor <= 1) return;  // a multiplier of zero stands for a division by one
    while ((int64_t{1} << shift_) < divisor - (int64_t{1} << shift_)) ++shift_;
    multiplier_ = static_cast<uint64_t>((static_cast<unsigned __int128>(1) << (64 + shift_)) / divisor + 1);
  }

  SIGE_HOST_DEVICE int64_t quotient(int64_t n) const {
    return multiplier_ ? static_cast<int64_t>(high_half(static_cast<uint64_t>(n), multiplier_) >> shift_) : n;
  }
  SIGE_HOST_DEVICE int64_t remainder(int64_t n) const { return n - quotient(n) * divisor_; }

 private:
  SIGE_HOST_DEVICE static uint64_t high_half(uint64_t a, uint64_t b) {  // of the product's 128 bits
#if defined(__CUDA_ARCH__)
    return __umul64hi(a, b);
#else
    return static_cast<uint64_t>(static_cast<unsigned __int128>(a) * b >> 64);
#endif
  }

  uint64_t multiplier_ = 0;
  int64_t divisor_;
  int32_t shift_ = 0;
};

// So that index arithmetic is written once, for a FastDivisor on a GPU and a plain number on the CPU.
SIGE_HOST_DEVICE inline int64_t operator/(int64_t n, const FastDivisor& divisor) { return divisor.quotient(n); }
SIGE_HOST_DEVICE inline int64_t operator%(int64_t n, const FastDivisor& divisor) { return divisor.remainder(n); }

}  // namespace sige
