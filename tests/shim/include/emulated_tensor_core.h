// The functions of csrc/common/tensor_core.cuh on the CPU, lane by lane: each lane shows its registers or its address
// to its warp, then computes what it holds of the result. tensor_core.cuh says which lane holds what.
#pragma once

#include "../cuda_shim.h"

namespace sige::cuda {
namespace emulated {

inline float element(uint32_t reg, unsigned half, __half) {
  return __half2float({static_cast<uint16_t>(reg >> 16 * half)});
}
inline float element(uint32_t reg, unsigned half, __nv_bfloat16) {
  return __bfloat162float({static_cast<uint16_t>(reg >> 16 * half)});
}

template <typename T>
struct Operands {
  FragmentA<T> a;
  FragmentB<T> b;
};

// The lane and the half of its register where element k of a row of A, or of a column of B, lies; its register is
// counted in steps of 8 along K.
struct Place {
  unsigned lane, step, half;
  Place(unsigned row, unsigned k) : lane(row % 8 * 4 + k % 8 / 2), step(k / 8), half(k % 2) {}
};

template <typename T>
float dot(const std::array<Operands<T>, 32>& warp, unsigned row, unsigned column) {
  float sum = 0.0f;
  for (unsigned k = 0; k < 16; ++k) {
    const Place left(row, k), right(column, k);
    sum += element(warp[left.lane].a.regs[left.step * 2 + row / 8], left.half, T{}) *
           element(warp[right.lane].b.regs[right.step], right.half, T{});
  }
  return sum;
}

template <bool kTransposed>
void load_matrices(uint32_t (&regs)[4], const void* shared_row) {
  if (reinterpret_cast<uintptr_t>(shared_row) % 16 != 0) sige_shim::fail("ldmatrix: a row is not on 16 bytes");
  const auto rows = sige_shim::show_to_warp(static_cast<const uint16_t*>(shared_row), "ldmatrix", __LINE__);
  const unsigned row = sige_shim::lane() / 4, pair = sige_shim::lane() % 4 * 2;
  for (unsigned matrix = 0; matrix < 4; ++matrix) {
    const auto at = [&](unsigned column) -> uint32_t {
      return kTransposed ? rows[matrix * 8 + column][row] : rows[matrix * 8 + row][column];
    };
    regs[matrix] = at(pair) | at(pair + 1) << 16;
  }
  sige_shim::show_to_warp(0, "ldmatrix", __LINE__);  // no lane goes on to write what another still reads
}

}  // namespace emulated

template <typename T>
void mma(FragmentC& c, const FragmentA<T>& a, const FragmentB<T>& b) {
  const auto warp = sige_shim::show_to_warp(emulated::Operands<T>{a, b}, "mma", __LINE__);
  const unsigned row = sige_shim::lane() / 4, pair = sige_shim::lane() % 4 * 2;
  for (unsigned i = 0; i < 4; ++i) c.sums[i] += emulated::dot(warp, row + i / 2 * 8, pair + i % 2);
}

inline void load_matrix_x4(uint32_t (&regs)[4], const void* shared_row) {
  emulated::load_matrices<false>(regs, shared_row);
}

inline void load_matrix_x4_transposed(uint32_t (&regs)[4], const void* shared_row) {
  emulated::load_matrices<true>(regs, shared_row);
}

inline void copy_async_16(void* shared, const void* global, bool valid) {
  if ((reinterpret_cast<uintptr_t>(shared) | (valid ? reinterpret_cast<uintptr_t>(global) : 0)) % 16 != 0) {
    sige_shim::fail("cp.async: an address is not on 16 bytes");
  }
  sige_shim::start_copy(shared, valid ? global : nullptr, 16);
}

inline void commit_copies() { sige_shim::commit_copies(); }

template <int kPending>
void wait_copies() {
  sige_shim::wait_copies(kPending);
}

}  // namespace sige::cuda
