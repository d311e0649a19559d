// The tensor cores' product of one warp, and the copies that feed it: mma.sync, ldmatrix and cp.async of sm_80 and
// newer. Storage is fp16 or bf16, sums are fp32. Every function but the copies is called by all 32 lanes of a warp
// together.
//
// A fragment is what one lane holds of a matrix. With row = lane / 4 and pair = lane % 4 * 2, a register of A or B
// holds two neighbours along K, the first one in its low half:
//
//   A [16, 16]     regs[0]  A[row    ][pair    .. pair + 1]     regs[2]  A[row    ][pair + 8 .. pair + 9]
//                  regs[1]  A[row + 8][pair    .. pair + 1]     regs[3]  A[row + 8][pair + 8 .. pair + 9]
//   B [16, 8]      regs[0]  B[pair .. pair + 1][row]            regs[1]  B[pair + 8 .. pair + 9][row]
//   C [16, 8]      sums[0], sums[1]  C[row][pair], C[row][pair + 1]
//                  sums[2], sums[3]  C[row + 8][pair], C[row + 8][pair + 1]
//
// So the registers of C for two neighbouring tiles of 8 columns, rounded to T, are those of A for the next product.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace sige::cuda {

template <typename T>
struct FragmentA {
  uint32_t regs[4];
};

template <typename T>
struct FragmentB {
  uint32_t regs[2];
};

struct FragmentC {
  float sums[4];
};

}  // namespace sige::cuda

#if defined(SIGE_CUDA_SHIM)
#include <emulated_tensor_core.h>  // tests/shim: the same functions on the CPU
#else

namespace sige::cuda {

// c += a b, where c is [16, 8], a [16, 16], b [16, 8].
__device__ inline void mma(FragmentC& c, const FragmentA<__half>& a, const FragmentB<__half>& b) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c.sums[0]), "+f"(c.sums[1]), "+f"(c.sums[2]), "+f"(c.sums[3])
      : "r"(a.regs[0]), "r"(a.regs[1]), "r"(a.regs[2]), "r"(a.regs[3]), "r"(b.regs[0]), "r"(b.regs[1]));
}

__device__ inline void mma(FragmentC& c, const FragmentA<__nv_bfloat16>& a, const FragmentB<__nv_bfloat16>& b) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c.sums[0]), "+f"(c.sums[1]), "+f"(c.sums[2]), "+f"(c.sums[3])
      : "r"(a.regs[0]), "r"(a.regs[1]), "r"(a.regs[2]), "r"(a.regs[3]), "r"(b.regs[0]), "r"(b.regs[1]));
}

__device__ inline uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// Reads four 8 x 8 matrices of 16-bit elements. Lane i passes the address of row i % 8 of matrix i / 8, 16 bytes on a
// 16-byte boundary; eight rows of a matrix are free of bank conflicts if their addresses differ modulo 128.
// regs[j] is row lane / 4 of matrix j, columns pair and pair + 1.
__device__ inline void load_matrix_x4(uint32_t (&regs)[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(regs[0]), "=r"(regs[1]), "=r"(regs[2]), "=r"(regs[3])
               : "r"(shared_address(shared_row))
               : "memory");
}

// The same with each matrix transposed: regs[j] is column lane / 4 of matrix j, rows pair and pair + 1.
__device__ inline void load_matrix_x4_transposed(uint32_t (&regs)[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(regs[0]), "=r"(regs[1]), "=r"(regs[2]), "=r"(regs[3])
               : "r"(shared_address(shared_row))
               : "memory");
}

// Starts a copy of 16 bytes, both addresses on a 16-byte boundary; it goes through L2 and not through L1. Unless
// `valid` it writes zeros and does not read `global`, which may then be null.
__device__ inline void copy_async_16(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
               "l"(__cvta_generic_to_global(global)), "r"(valid ? 16 : 0)
               : "memory");
}

// Makes one group of this thread's copies since the last call; the group may be empty.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until all but the newest kPending groups of this thread are done. Other threads see them after a barrier.
template <int kPending>
__device__ inline void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

}  // namespace sige::cuda

#endif
