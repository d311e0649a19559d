// Vector access as a type: a kernel is written once for `Packed<T, kWidth>`, with 16 bytes or one element at a time.
// Storage is T; arithmetic is fp32, one lane at a time.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <initializer_list>

namespace sige::cuda {

__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(__half value) { return __half2float(value); }
__device__ inline float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

__device__ inline void from_float(float value, float* out) { *out = value; }
__device__ inline void from_float(float value, __half* out) { *out = __float2half_rn(value); }
__device__ inline void from_float(float value, __nv_bfloat16* out) { *out = __float2bfloat16_rn(value); }

// The machine word that moves a whole vector in one instruction.
template <int kBytes>
struct WordOf;
template <>
struct WordOf<16> {
  using type = uint4;
};
template <>
struct WordOf<8> {
  using type = uint2;
};
template <>
struct WordOf<4> {
  using type = uint32_t;
};
template <>
struct WordOf<2> {
  using type = uint16_t;
};

template <typename Word>
__device__ void store_word(Word* to, const Word& word) {
  *to = word;
}

// The compiler splits some assignments of 16 bytes into four stores.
__device__ inline void store_word(uint4* to, const uint4& word) {
#if defined(__CUDA_ARCH__)
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)), "r"(word.x), "r"(word.y),
               "r"(word.z), "r"(word.w)
               : "memory");
#else
  *to = word;
#endif
}

// kWidth neighbouring elements. They stay in storage form until a lane is read, so that a thread can hold many loads in
// flight without paying fp32 registers for them.
template <typename T, int kWidth>
struct Packed {
  using Word = typename WordOf<sizeof(T) * kWidth>::type;

  Word word;

  // `from` and `to` are aligned to the vector: see `can_vectorise`. No kernel writes memory that it reads through this.
  // __ldg tells the compiler so, which can then start the next loads before it has stored the last.
  __device__ static Packed load(const T* from) { return {__ldg(reinterpret_cast<const Word*>(from))}; }
  __device__ static Packed zero() { return {Word{}}; }
  __device__ void store(T* to) const { store_word(reinterpret_cast<Word*>(to), word); }

  __device__ void unpack(float (&lanes)[kWidth]) const {
    T elements[kWidth];
    memcpy(elements, &word, sizeof(word));
#pragma unroll
    for (int lane = 0; lane < kWidth; ++lane) lanes[lane] = to_float(elements[lane]);
  }

  __device__ static Packed pack(const float (&lanes)[kWidth]) {
    T elements[kWidth];
#pragma unroll
    for (int lane = 0; lane < kWidth; ++lane) from_float(lanes[lane], &elements[lane]);
    Packed packed;
    memcpy(&packed.word, elements, sizeof(packed.word));
    return packed;
  }
};

// Elements of T in 16 bytes, the widest access of one thread.
template <typename T>
constexpr int kVectorWidth = 16 / sizeof(T);

// Says whether rows of these tensors can be read 16 bytes at a time: whether the base pointers start on a 16-byte
// boundary, and the strides (in elements) keep every row on one.
template <typename T>
bool can_vectorise(std::initializer_list<const void*> pointers, std::initializer_list<int64_t> strides) {
  for (const void* pointer : pointers) {
    if (reinterpret_cast<uintptr_t>(pointer) % 16 != 0) return false;
  }
  for (int64_t stride : strides) {
    if (stride % kVectorWidth<T> != 0) return false;
  }
  return true;
}

}  // namespace sige::cuda
