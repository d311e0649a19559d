// The arithmetic of one attention tile: scores, online softmax, weighted values. All of it is in fp32, from shared
// memory to registers. block_attention.cu chooses the tiles of queries and keys.
#pragma once

#include "block_attention.h"
#include "common/launch.cuh"

namespace sige::cuda {

// A block of 16 x 16 threads takes a tile of queries of one head and walks over the keys, 64 at a time, with an online
// softmax. Keys and values pass through one shared tile, 64 channels at a time. Thread (x, y) owns rows y + 16 i of the
// tile; of the scores it owns columns x + 16 j, of a 64-channel slice of the output, channels 4 x to 4 x + 3. With
// these strides every shared access below is free of bank conflicts.
constexpr int kSide = 16;
constexpr int kAttentionThreads = kSide * kSide;
constexpr int kKeys = static_cast<int>(kAttentionBlock);  // keys of a tile
constexpr int kSlice = 64;                                // channels of a slice
constexpr int kSlicePitch = kSlice + 4;
constexpr int kScorePitch = kKeys + kSide;
constexpr int kMaxHeadSize = 512;

// The sizes of a block's tiles, for heads of up to kHeadSize channels. Wider heads have fewer queries in a tile, so
// that the output fits into the registers and the queries into shared memory.
template <int kHeadSize>
struct Tile {
  static constexpr int kQueries = kHeadSize <= 128 ? 64 : 32;
  static constexpr int kRows = kQueries / kSide;      // query rows of a thread
  static constexpr int kColumns = kKeys / kSide;      // score columns of a thread
  static constexpr int kSlices = kHeadSize / kSlice;  // slices of the head
  static constexpr int kQueryPitch = kHeadSize + 4;
  static constexpr int kQueryFloats = kQueries * kQueryPitch;
  static constexpr int kSliceFloats = kKeys * kSlicePitch;
  static constexpr int kScoreFloats = kQueries * kScorePitch;
  static constexpr int kBlocksPerSm = kHeadSize <= 256 ? 2 : 1;  // limits the registers of a thread
  static constexpr size_t kSharedBytes = sizeof(float) * (kQueryFloats + kSliceFloats + kScoreFloats);
  static_assert(kSharedBytes + 1024 <= 99 * 1024, "the largest block of sm_86 and sm_89");
};

__device__ inline float4 load_four(const float* from) { return *reinterpret_cast<const float4*>(from); }

// Copies `channels` (at most kSlice) channels of kCount rows into a shared tile, and zeros into the rest of it and into
// rows for which `row_of` returns null.
template <typename T, int kWidth, int kCount, int kPitch, typename RowOf>
__device__ void load_slice(RowOf row_of, int64_t channels, float* tile) {
  constexpr int kVectors = kSlice / kWidth;
  constexpr int kPasses = kCount * kVectors / kAttentionThreads;
  static_assert(kPasses * kAttentionThreads == kCount * kVectors, "no thread is left over");
  const int thread = threadIdx.y * kSide + threadIdx.x;
#pragma unroll 4
  for (int pass = 0; pass < kPasses; ++pass) {
    const int i = pass * kAttentionThreads + thread;
    const int row = i / kVectors, channel = i % kVectors * kWidth;
    const T* from = row_of(row);
    float lanes[kWidth] = {};
    if (from && channel < channels) Packed<T, kWidth>::load(from + channel).unpack(lanes);
#pragma unroll
    for (int lane = 0; lane < kWidth; ++lane) tile[row * kPitch + channel + lane] = lanes[lane];
  }
}

// acc[i][j] += left[row i] . right[row j] over one slice: both run along the channels.
template <int kRows, int kColumns>
__device__ void multiply_transposed(const float* left, int left_pitch, const float* right,
                                    float (&acc)[kRows][kColumns]) {
#pragma unroll 2
  for (int c = 0; c < kSlice; c += 4) {
    float4 a[kRows], b[kColumns];
#pragma unroll
    for (int i = 0; i < kRows; ++i) a[i] = load_four(left + (threadIdx.y + i * kSide) * left_pitch + c);
#pragma unroll
    for (int j = 0; j < kColumns; ++j) b[j] = load_four(right + (threadIdx.x + j * kSide) * kSlicePitch + c);
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        acc[i][j] += a[i].x * b[j].x + a[i].y * b[j].y + a[i].z * b[j].z + a[i].w * b[j].w;
      }
    }
  }
}

// acc[i] += weights[row i] times the values' slice, four channels of it.
template <int kRows>
__device__ void multiply_values(const float* weights, const float* values, float4 (&acc)[kRows]) {
#pragma unroll 2
  for (int k = 0; k < kKeys; k += 4) {
    float4 v[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) v[j] = load_four(values + (k + j) * kSlicePitch + threadIdx.x * 4);
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const float4 w = load_four(weights + (threadIdx.y + i * kSide) * kScorePitch + k);
      acc[i].x += w.x * v[0].x + w.y * v[1].x + w.z * v[2].x + w.w * v[3].x;
      acc[i].y += w.x * v[0].y + w.y * v[1].y + w.z * v[2].y + w.w * v[3].y;
      acc[i].z += w.x * v[0].z + w.y * v[1].z + w.z * v[2].z + w.w * v[3].z;
      acc[i].w += w.x * v[0].w + w.y * v[1].w + w.z * v[2].w + w.w * v[3].w;
    }
  }
}

// Reduces over the 16 threads of a row, which are one half of a warp.
__device__ inline float row_max(float value) {
#pragma unroll
  for (int distance = kSide / 2; distance > 0; distance /= 2) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, distance));
  }
  return value;
}

__device__ inline float row_sum(float value) {
#pragma unroll
  for (int distance = kSide / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, distance);
  }
  return value;
}

// The state of a thread, updated by one key tile after another. `sum` covers its own columns, `peak` the whole row.
template <int kHeadSize>
struct Softmax {
  float peak[Tile<kHeadSize>::kRows];
  float sum[Tile<kHeadSize>::kRows];
  float4 out[Tile<kHeadSize>::kSlices][Tile<kHeadSize>::kRows];

  __device__ void reset() {
#pragma unroll
    for (int i = 0; i < Tile<kHeadSize>::kRows; ++i) {
      peak[i] = -INFINITY;
      sum[i] = 0.0f;
#pragma unroll
      for (int s = 0; s < Tile<kHeadSize>::kSlices; ++s) out[s][i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
  }

  // Turns the scores (in units of log2 e; -inf for hidden keys) into weights in shared memory, and rescales the sum and
  // the output to the new peak.
  __device__ void add_scores(const float (&scores)[Tile<kHeadSize>::kRows][Tile<kHeadSize>::kColumns], float* weights) {
#pragma unroll
    for (int i = 0; i < Tile<kHeadSize>::kRows; ++i) {
      float new_peak = peak[i];
#pragma unroll
      for (int j = 0; j < Tile<kHeadSize>::kColumns; ++j) new_peak = fmaxf(new_peak, scores[i][j]);
      new_peak = row_max(new_peak);
      const float origin = new_peak == -INFINITY ? 0.0f : new_peak;  // no key yet: every weight is 2^-inf = 0
      const float rescale = exp2f(peak[i] - origin);
      peak[i] = new_peak;
      sum[i] *= rescale;
#pragma unroll
      for (int s = 0; s < Tile<kHeadSize>::kSlices; ++s) {
        out[s][i].x *= rescale;
        out[s][i].y *= rescale;
        out[s][i].z *= rescale;
        out[s][i].w *= rescale;
      }
#pragma unroll
      for (int j = 0; j < Tile<kHeadSize>::kColumns; ++j) {
        const float weight = exp2f(scores[i][j] - origin);
        sum[i] += weight;
        weights[(threadIdx.y + i * kSide) * kScorePitch + threadIdx.x + j * kSide] = weight;
      }
    }
  }
};

}  // namespace sige::cuda
