// The arithmetic of one attention tile on tensor cores: fragments of queries, scores, online softmax, weighted values.
// Storage is fp16 or bf16, everything that is summed is fp32. tensor_attention.cu brings keys and values into shared
// memory and chooses the tiles.
#pragma once

#include "block_attention.h"
#include "common/launch.cuh"
#include "common/tensor_core.cuh"

namespace sige::cuda {

// A block of four warps takes kRowTiles * 64 queries of one head and walks over the keys, 64 at a time. A warp owns 16
// queries of each row tile, so that a row tile is one query block of the block mask.
constexpr int kTensorWarps = 4;
constexpr int kTensorThreads = 32 * kTensorWarps;
constexpr int kTileKeys = static_cast<int>(kAttentionBlock);
constexpr int kWarpQueries = 16;
constexpr int kTileQueries = kTensorWarps * kWarpQueries;
constexpr int kLargestTensorHead = 160;
constexpr int kChunk = 8;  // elements of 16 bytes
constexpr unsigned kWholeWarp = 0xffffffffu;

static_assert(kTileQueries == kAttentionBlock, "a row tile is one query block of the block mask");

// The sizes of a block's tiles, for heads of up to kHeadSize channels.
template <int kHeadSize_, int kRowTiles_>
struct TensorTile {
  static constexpr int kHeadSize = kHeadSize_;
  static constexpr int kRowTiles = kRowTiles_;
  static constexpr int kRows = kRowTiles * kTileQueries;
  static constexpr int kSteps = kHeadSize / 16;       // products along the channels
  static constexpr int kOutTiles = kHeadSize / 8;     // columns of the output, eight at a time
  static constexpr int kKeyTiles = kTileKeys / 8;     // columns of the scores, eight at a time
  static constexpr int kChunks = kHeadSize / kChunk;  // of a row
  static constexpr int kPitch = kHeadSize + kChunk;   // an odd number of chunks: ldmatrix has no bank conflict
  static constexpr int kTileElements = kTileKeys * kPitch;
  static constexpr int kStages = kHeadSize <= 64 ? 3 : 2;  // tiles of keys and values in shared memory
  static constexpr int kBlocksPerSm = kHeadSize <= 64 && kRowTiles == 1 ? 3 : 2;  // limits the registers of a thread
  static constexpr size_t kSharedBytes = sizeof(uint16_t) * kStages * 2 * kTileElements;
  static_assert(kHeadSize % 16 == 0 && kHeadSize <= kLargestTensorHead);
  static_assert(kSharedBytes + 1024 <= 99 * 1024, "the largest block of sm_86 and sm_89");
};

// The queries of one block.
struct QueryBlock {
  int b;
  int head;
  int first;  // query
};

__device__ inline int lane_id() { return static_cast<int>(threadIdx.x) % 32; }
__device__ inline int warp_id() { return static_cast<int>(threadIdx.x) / 32; }

// 2^x, zero where that is below the smallest normal number.
__device__ inline float fast_exp2(float x) {
#if defined(SIGE_CUDA_SHIM)
  return exp2f(x);
#else
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
#endif
}

// Reduces over the four lanes that hold a row of a fragment C.
__device__ inline float quad_max(float value) {
  value = fmaxf(value, __shfl_xor_sync(kWholeWarp, value, 1));
  return fmaxf(value, __shfl_xor_sync(kWholeWarp, value, 2));
}

__device__ inline float quad_sum(float value) {
  value += __shfl_xor_sync(kWholeWarp, value, 1);
  return value + __shfl_xor_sync(kWholeWarp, value, 2);
}

// What a warp holds while it walks over the keys. Of each row tile a thread owns two rows: lane / 4, and eight below.
template <typename T, typename Shape>
struct TensorSoftmax {
  FragmentA<T> query[Shape::kRowTiles][Shape::kSteps];
  FragmentC out[Shape::kRowTiles][Shape::kOutTiles];
  float peak[Shape::kRowTiles][2];  // of the scores so far
  float sum[Shape::kRowTiles][2];   // of this thread's weights

  __device__ void reset() {
#pragma unroll
    for (int r = 0; r < Shape::kRowTiles; ++r) {
      peak[r][0] = peak[r][1] = -INFINITY;
      sum[r][0] = sum[r][1] = 0.0f;
#pragma unroll
      for (int n = 0; n < Shape::kOutTiles; ++n) out[r][n] = {};
    }
  }

  // The query of a row tile's upper (0) or lower (1) row.
  __device__ static int query_of(const QueryBlock& block, int r, int half) {
    return block.first + r * kTileQueries + warp_id() * kWarpQueries + half * 8 + lane_id() / 4;
  }

  // Reads the queries from global memory, zeros beyond the last one and beyond the head.
  __device__ void load_queries(const BlockAttentionParams& params, const QueryBlock& block) {
    const int queries = static_cast<int>(params.queries), channels = static_cast<int>(params.key.channels);
    const T* rows = static_cast<const T*>(params.query) + block.b * params.queries * channels +
                    block.head * params.head_size + lane_id() % 4 * 2;
#pragma unroll
    for (int r = 0; r < Shape::kRowTiles; ++r) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int q = query_of(block, r, half);
        const T* row = rows + static_cast<int64_t>(q) * channels;
#pragma unroll
        for (int i = 0; i < 2 * Shape::kSteps; ++i) {
          const bool inside = q < queries && i * 8 < params.head_size;
          query[r][i / 2].regs[half + i % 2 * 2] = inside ? Packed<T, 2>::load(row + i * 8).word : 0u;
        }
      }
    }
  }

  // Updates the softmax with one tile of keys; bit k of seen[r] says that row tile r sees key k.
  __device__ void add_tile(const T* keys, const T* values,  // [kTileKeys, kPitch] each
                           const uint64_t* seen, float scale) {
    FragmentC scores[Shape::kRowTiles][Shape::kKeyTiles] = {};
    multiply_keys(keys, scores);
#pragma unroll
    for (int r = 0; r < Shape::kRowTiles; ++r) {
      hide_keys(seen[r], scale, scores[r]);
      weigh(r, 0, scores[r]);
      weigh(r, 1, scores[r]);
    }
    multiply_values(values, scores);
  }

  // Writes one row of the output, multiplied by `factor`.
  template <typename U>
  __device__ void store_row(int r, int half, float factor, int64_t head_size, U* row) const {
    U* to = row + lane_id() % 4 * 2;
#pragma unroll
    for (int n = 0; n < Shape::kOutTiles; ++n) {
      const float lanes[2] = {out[r][n].sums[2 * half] * factor, out[r][n].sums[2 * half + 1] * factor};
      if (n * 8 < head_size) Packed<U, 2>::pack(lanes).store(to + n * 8);
    }
  }

 private:
  __device__ void multiply_keys(const T* keys, FragmentC (&scores)[Shape::kRowTiles][Shape::kKeyTiles]) const {
    const int lane = lane_id();
    const T* rows = keys + (lane / 16 * 8 + lane % 8) * Shape::kPitch + lane / 8 % 2 * 8;
#pragma unroll
    for (int k = 0; k < Shape::kSteps; ++k) {
#pragma unroll
      for (int n = 0; n < Shape::kKeyTiles; n += 2) {
        uint32_t regs[4];
        load_matrix_x4(regs, rows + n * 8 * Shape::kPitch + k * 16);
#pragma unroll
        for (int r = 0; r < Shape::kRowTiles; ++r) {
          mma(scores[r][n], query[r][k], FragmentB<T>{{regs[0], regs[1]}});
          mma(scores[r][n + 1], query[r][k], FragmentB<T>{{regs[2], regs[3]}});
        }
      }
    }
  }

  // Scales the scores to units of log2 e, and sets those of hidden keys to -inf.
  __device__ static void hide_keys(uint64_t seen, float scale, FragmentC (&scores)[Shape::kKeyTiles]) {
    const float factor = scale * 1.44269504f;
#pragma unroll
    for (int n = 0; n < Shape::kKeyTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[n].sums[i] *= factor;
    }
    if (seen == ~uint64_t{0}) return;
    const uint64_t mine = seen >> (lane_id() % 4 * 2);
#pragma unroll
    for (int n = 0; n < Shape::kKeyTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (!(mine >> (n * 8 + i % 2) & 1)) scores[n].sums[i] = -INFINITY;
      }
    }
  }

  // Turns the scores of one row into weights, and rescales its sum and its output to the new peak.
  __device__ void weigh(int r, int half, FragmentC (&scores)[Shape::kKeyTiles]) {
    float top = peak[r][half];
#pragma unroll
    for (int n = 0; n < Shape::kKeyTiles; ++n) {
      top = fmaxf(top, fmaxf(scores[n].sums[2 * half], scores[n].sums[2 * half + 1]));
    }
    top = quad_max(top);
    const float origin = top == -INFINITY ? 0.0f : top;  // no key yet: every weight is 2^-inf = 0
    const float rescale = fast_exp2(peak[r][half] - origin);
    peak[r][half] = top;
    sum[r][half] *= rescale;
#pragma unroll
    for (int n = 0; n < Shape::kOutTiles; ++n) {
      out[r][n].sums[2 * half] *= rescale;
      out[r][n].sums[2 * half + 1] *= rescale;
    }
#pragma unroll
    for (int n = 0; n < Shape::kKeyTiles; ++n) {
#pragma unroll
      for (int i = 2 * half; i < 2 * half + 2; ++i) {
        scores[n].sums[i] = fast_exp2(scores[n].sums[i] - origin);
        sum[r][half] += scores[n].sums[i];
      }
    }
  }

  __device__ static uint32_t rounded(float first, float second) {
    const float lanes[2] = {first, second};
    return Packed<T, 2>::pack(lanes).word;
  }

  // The fragment of two neighbouring tiles of weights, 16 keys.
  __device__ static FragmentA<T> weights_of(const FragmentC& left, const FragmentC& right) {
    return {{rounded(left.sums[0], left.sums[1]), rounded(left.sums[2], left.sums[3]),
             rounded(right.sums[0], right.sums[1]), rounded(right.sums[2], right.sums[3])}};
  }

  __device__ void multiply_values(const T* values, const FragmentC (&weights)[Shape::kRowTiles][Shape::kKeyTiles]) {
    const T* rows = values + lane_id() % 16 * Shape::kPitch + lane_id() / 16 * 8;
#pragma unroll
    for (int k = 0; k < kTileKeys / 16; ++k) {
      FragmentA<T> left[Shape::kRowTiles];
#pragma unroll
      for (int r = 0; r < Shape::kRowTiles; ++r) left[r] = weights_of(weights[r][2 * k], weights[r][2 * k + 1]);
#pragma unroll
      for (int n = 0; n < Shape::kOutTiles; n += 2) {
        uint32_t regs[4];
        load_matrix_x4_transposed(regs, rows + k * 16 * Shape::kPitch + n * 8);
#pragma unroll
        for (int r = 0; r < Shape::kRowTiles; ++r) {
          mma(out[r][n], left[r], FragmentB<T>{{regs[0], regs[1]}});
          mma(out[r][n + 1], left[r], FragmentB<T>{{regs[2], regs[3]}});
        }
      }
    }
  }
};

}  // namespace sige::cuda
