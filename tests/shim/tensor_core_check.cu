// A small product on the functions of common/tensor_core.cuh, for tests/ops/test_tensor_core.py: one warp, two stages.
#include "common/launch.cuh"
#include "common/tensor_core.cuh"

namespace sige::cuda {
namespace {

constexpr int kSide = 16;   // rows, columns and depth of a step
constexpr int kPitch = 24;  // elements between rows in shared memory

struct CheckParams {
  const void* left;    // [rows, depth]
  const void* right;   // [16, depth], or [depth, 16] where `transposed`
  float* out;          // [16, 16]
  int64_t rows;        // at most 16; the rows after them are zeros
  int64_t depth;       // a multiple of 16
  int32_t transposed;  // B's rows lie along N, and are transposed on the way to the registers
};

// Copies 16 rows of 16 elements, `stride` elements apart; lane i copies half a row. Rows from `rows` on become zeros.
template <typename T>
__device__ void copy_tile(const T* from, int64_t stride, int64_t rows, T (&tile)[kSide][kPitch]) {
  const int row = threadIdx.x / 2, column = threadIdx.x % 2 * 8;
  const bool valid = row < rows;
  copy_async_16(&tile[row][column], valid ? from + row * stride + column : nullptr, valid);
}

template <typename T>
__device__ void copy_step(const CheckParams& params, int64_t k, T (&a)[kSide][kPitch], T (&b)[kSide][kPitch]) {
  const T* left = static_cast<const T*>(params.left);
  const T* right = static_cast<const T*>(params.right);
  if (k < params.depth) {
    copy_tile(left + k, params.depth, params.rows, a);
    params.transposed ? copy_tile(right + k * kSide, kSide, kSide, b) : copy_tile(right + k, params.depth, kSide, b);
  }
  commit_copies();
}

template <typename T>
__global__ void check_kernel(const CheckParams params) {
  alignas(16) __shared__ T a[2][kSide][kPitch], b[2][kSide][kPitch];
  const int lane = threadIdx.x;
  FragmentC sums[2] = {};
  copy_step(params, 0, a[0], b[0]);
  for (int64_t k = 0; k < params.depth; k += kSide) {
    const int stage = static_cast<int>(k / kSide % 2);
    copy_step(params, k + kSide, a[1 - stage], b[1 - stage]);
    wait_copies<1>();
    __syncthreads();
    FragmentA<T> left;
    uint32_t right[4];  // two tiles of 8 columns
    load_matrix_x4(left.regs, &a[stage][lane % 16][lane / 16 * 8]);
    if (params.transposed) {
      load_matrix_x4_transposed(right, &b[stage][lane % 16][lane / 16 * 8]);
    } else {
      load_matrix_x4(right, &b[stage][lane % 8 + lane / 16 * 8][lane / 8 % 2 * 8]);
    }
    for (int tile = 0; tile < 2; ++tile) mma(sums[tile], left, FragmentB<T>{{right[2 * tile], right[2 * tile + 1]}});
    __syncthreads();  // the next step overwrites the stage
  }
  for (int tile = 0; tile < 2; ++tile) {
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i / 2 * 8, column = tile * 8 + lane % 4 * 2 + i % 2;
      params.out[row * kSide + column] = sums[tile].sums[i];
    }
  }
}

}  // namespace
}  // namespace sige::cuda

extern "C" __attribute__((visibility("default"))) void sige_check_tensor_core(const void* left, const void* right,
                                                                              float* out, int64_t rows, int64_t depth,
                                                                              int32_t transposed, int32_t dtype) {
  using namespace sige::cuda;
  const CheckParams params = {left, right, out, rows, depth, transposed};
  dispatch_dtype(static_cast<sige::DType>(dtype), [&](auto tag) {
    using T = typename decltype(tag)::type;
    if constexpr (sizeof(T) == 2) launch("check", check_kernel<T>, LaunchShape{1, dim3(32)}, nullptr, params);
  });
}
