// One register of fp32 lanes, loaded from and stored to fp32, fp16 or bf16 memory.
//
// A vector is as wide as the variant's registers, never wider: the compiler would keep a wider one in memory, and
// compare its lanes one by one (attention took seven times as long).
//
// Everything here is static on purpose: a kernel file is compiled once per CPU variant (cpu_variant.h), and a shared
// inline function would let the linker keep the AVX-512 copy for a machine that has none.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#include "common/gelu.h"
#include "common/types.h"

#if defined(__F16C__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define SIGE_VECTOR_BYTES 64
#elif defined(__AVX__)
#define SIGE_VECTOR_BYTES 32
#else
#define SIGE_VECTOR_BYTES 16
#endif

namespace sige::SIGE_CPU_VARIANT {

constexpr int64_t kLanes = SIGE_VECTOR_BYTES / 4;

typedef float Vec __attribute__((vector_size(SIGE_VECTOR_BYTES)));
typedef int32_t IntVec __attribute__((vector_size(SIGE_VECTOR_BYTES)));
typedef uint32_t BitsVec __attribute__((vector_size(SIGE_VECTOR_BYTES)));
typedef uint16_t HalfBits __attribute__((vector_size(SIGE_VECTOR_BYTES / 2)));

struct float16 {
  uint16_t bits;
};
struct bfloat16 {
  uint16_t bits;
};

static inline Vec broadcast(float value) { return value - Vec{}; }

static inline Vec maximum(Vec a, Vec b) { return a > b ? a : b; }
static inline Vec minimum(Vec a, Vec b) { return a < b ? a : b; }

// A zeroed array of floats, aligned for Vec.
class Floats {
 public:
  explicit Floats(int64_t count) {
    const int64_t bytes = ceil_div((count > 0 ? count : 1) * sizeof(float), sizeof(Vec)) * sizeof(Vec);
    data_ = static_cast<float*>(aligned_alloc(sizeof(Vec), bytes));
    if (!data_) throw std::bad_alloc();
    memset(data_, 0, bytes);
  }
  ~Floats() { free(data_); }
  Floats(const Floats&) = delete;
  Floats& operator=(const Floats&) = delete;
  float* data() const { return data_; }

 private:
  float* data_;
};

// ---- fp16, one lane, in integer arithmetic: for processors without a conversion instruction -------------------

static inline float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t magnitude = half & 0x7fffu;
  float value;
  if (magnitude >= 0x7c00u) {  // infinity, NaN
    const uint32_t bits = sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13);
    memcpy(&value, &bits, sizeof value);
    return value;
  }
  // An fp16 pattern moved into fp32's place is the same number times 2^-112, subnormals included.
  const uint32_t bits = magnitude << 13;
  memcpy(&value, &bits, sizeof value);
  value *= 0x1p112f;
  return sign ? -value : value;
}

static inline uint16_t float_to_half(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) return sign | 0x7e00u;   // NaN
  if (bits >= 0x477ff000u) return sign | 0x7c00u;  // rounds to infinity
  if (bits < 0x38800000u) {                        // subnormal: let an fp32 addition round it
    float shifted;
    memcpy(&shifted, &bits, sizeof shifted);
    shifted += 0.5f;
    memcpy(&bits, &shifted, sizeof bits);
    return sign | static_cast<uint16_t>(bits - 0x3f000000u);
  }
  bits += 0xfffu + ((bits >> 13) & 1u);  // round to nearest, ties to even
  return sign | static_cast<uint16_t>((bits - 0x38000000u) >> 13);
}

// ---- whole vectors --------------------------------------------------------------------------------------------

static inline Vec load(const float* source) {
  Vec value;
  memcpy(&value, source, sizeof value);
  return value;
}

static inline Vec load(const bfloat16* source) {
  HalfBits half;
  memcpy(&half, source, sizeof half);
  return (Vec)(__builtin_convertvector(half, BitsVec) << 16);
}

static inline Vec load(const float16* source) {
#if defined(__AVX512F__)
  __m256i half;
  memcpy(&half, source, sizeof half);
  return (Vec)_mm512_cvtph_ps(half);
#elif defined(__F16C__)
  __m128i half;
  memcpy(&half, source, sizeof half);
  return (Vec)_mm256_cvtph_ps(half);
#else
  Vec value;
  for (int64_t lane = 0; lane < kLanes; ++lane) value[lane] = half_to_float(source[lane].bits);
  return value;
#endif
}

static inline void store(float* target, Vec value) { memcpy(target, &value, sizeof value); }

static inline void store(bfloat16* target, Vec value) {
  const BitsVec bits = (BitsVec)value;
  const BitsVec rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const BitsVec quiet_nan = (bits >> 16) | 0x40u;
  const HalfBits half = __builtin_convertvector(value == value ? rounded : quiet_nan, HalfBits);
  memcpy(target, &half, sizeof half);
}

static inline void store(float16* target, Vec value) {
#if defined(__AVX512F__)
  const __m256i half = _mm512_cvtps_ph((__m512)value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  memcpy(target, &half, sizeof half);
#elif defined(__F16C__)
  const __m128i half = _mm256_cvtps_ph((__m256)value, _MM_FROUND_TO_NEAREST_INT);
  memcpy(target, &half, sizeof half);
#else
  for (int64_t lane = 0; lane < kLanes; ++lane) target[lane].bits = float_to_half(value[lane]);
#endif
}

// ---- the last C % kLanes lanes --------------------------------------------------------------------------------

template <typename T>
static inline Vec load(const T* source, int64_t count) {
  if (count >= kLanes) return load(source);
  T lanes[kLanes] = {};
  memcpy(lanes, source, count * sizeof(T));
  return load(lanes);
}

template <typename T>
static inline void store(T* target, Vec value, int64_t count) {
  if (count >= kLanes) return store(target, value);
  T lanes[kLanes];
  store(lanes, value);
  memcpy(target, lanes, count * sizeof(T));
}

// ---- arithmetic -----------------------------------------------------------------------------------------------

static inline float horizontal_sum(Vec value) {
  float sum = 0.0f;
  for (int64_t lane = 0; lane < kLanes; ++lane) sum += value[lane];
  return sum;
}

// e^x to 2 ulp: x = n ln 2 + r with |r| <= ln 2 / 2, a degree-6 polynomial for e^r, n into the exponent bits.
static inline Vec exponential(Vec x) {
  x = minimum(maximum(x, broadcast(-87.33f)), broadcast(88.37f));
  const Vec magic = broadcast(0x1.8p23f);  // adding it rounds to an integer in the low mantissa bits
  const Vec shifted = x * 0x1.715476p0f + magic;
  const Vec n = shifted - magic;
  const Vec r = (x - n * 0x1.62e400p-1f) - n * 0x1.7f7d1cp-20f;
  Vec p = broadcast(0x1.6c16c2p-10f);
  p = p * r + 0x1.111112p-7f;
  p = p * r + 0x1.555556p-5f;
  p = p * r + 0x1.555556p-3f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const IntVec exponent = ((IntVec)shifted - (IntVec)magic) << 23;
  return (Vec)((IntVec)p + exponent);
}

static inline Vec silu(Vec x) { return x / (1.0f + exponential(-x)); }

// x times the share of a normal distribution below x: max(x, 0) - |x| q, where q = erfc(z) / 2 is the share beyond |x|,
// and z = |x| / sqrt(2). The bound on |x| keeps infinity times zero out; NaN stays NaN.
static inline Vec gelu(Vec x) {
  const Vec size = minimum(broadcast(40.0f), maximum(x, -x));
  const Vec z = size * 0.70710678f;
  const Vec beyond = scaled_erfc(1.0f / (1.0f + z * 0.47f)) * exponential(-z * z);
  return maximum(x, Vec{}) - size * beyond;
}

// Calls body(tag) with a value of the storage type that `dtype` names.
template <typename Body>
static inline void dispatch(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::kFloat32:
      return body(float{});
    case DType::kFloat16:
      return body(float16{});
    case DType::kBFloat16:
      return body(bfloat16{});
  }
}

}  // namespace sige::SIGE_CPU_VARIANT
