// Sums of groups over rows, for group_stats.cu and norm_affine.cu: one kernel, whose last blocks end the sums.
//
// A block adds up kStatsRows rows and writes its sums. The last block of a chunk, which is kChunkBlocks of them or
// more, adds up those; the last block of a sample, and of the tile of groups that it takes, adds up the chunks of each
// term, and hands them to the `Work` of the launch. Each of these sums is in fp64 and in a fixed order. One step in
// place of two would leave the sums of many rows to one multiprocessor: 1600 blocks of a decoder's rows are 800 KB.
//
// A Work has
//   sums                                 the GroupStatsParams
//   end(tiling, b, first_group, groups)  which all threads of a last block call for their sample and groups
#pragma once

#include <numeric>

#include "common/fast_divisor.h"
#include "common/last_block.cuh"
#include "group_stats.h"

namespace sige::cuda {

// ---------------------------------------------------------------------------------------------------------------
// Kernels
// ---------------------------------------------------------------------------------------------------------------

constexpr int kStatsThreads = 256;
constexpr int kStatsVectors = 32;     // blockDim.x at most: vectors side by side, a warp's worth
constexpr int kStatsLanes = 4;        // threads that share the adding of one number
constexpr int64_t kChunkBlocks = 64;  // row blocks whose sums one block adds up, at least

// A block takes kStatsRows rows of one sample and `tile_groups` whole groups: blockDim.x vectors side by side,
// blockDim.y rows at a time. A tile starts on a vector boundary, which groups on their own need not.
struct StatsTiling {
  int64_t blocks;             // K * samples * row_blocks
  int64_t first_sample;       // of those that this launch takes
  FastDivisor row_blocks{1};  // per sample
  FastDivisor samples{1};     // of this launch
  int32_t blocks_of_rows;     // as row_blocks
  int32_t chunk_blocks;
  int32_t chunks;       // ceil(row_blocks / chunk_blocks)
  int32_t group_size;   // channels of a group
  int32_t tile_groups;  // at most kStatsThreads: one thread keeps one group's sums
  int32_t tiles;        // of groups
  int32_t slice;        // of the counters
  dim3 threads;

  int64_t counters(int64_t terms, int64_t samples) const { return samples * tiles * (terms * chunks + 1); }
};

__device__ inline int stats_thread() { return static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x); }
__device__ inline int stats_threads() { return static_cast<int>(blockDim.x * blockDim.y); }

struct Sums {
  double sum;
  double squares;
};

// Adds the terms of rows threadIdx.y, + blockDim.y, ... of this thread's vector.
template <typename T, int kWidth, bool kUpdate>
__device__ void add_rows(const GroupStatsParams& params, int64_t term, int64_t b, int64_t first_row, int32_t row_count,
                         int64_t channel, float2 (&sums)[kWidth]) {
  using Vector = Packed<T, kWidth>;
  const T* rows = static_cast<const T*>(params.rows) + (b * params.row_count + first_row) * params.channels;
#pragma unroll 4
  for (int32_t r = threadIdx.y; r < row_count; r += blockDim.y) {
    float lanes[kWidth];
    float old_lanes[kWidth] = {};
    if constexpr (kUpdate) {
      const int64_t replaced = replaced_row(params, first_row + r);
      if (replaced < 0) continue;
      const T* old_rows = static_cast<const T*>(params.old_rows[term]);
      Vector::load(old_rows + (b * params.old_row_count + replaced) * params.channels + channel).unpack(old_lanes);
    }
    Vector::load(rows + r * params.channels + channel).unpack(lanes);
#pragma unroll
    for (int lane = 0; lane < kWidth; ++lane) {
      const float x = lanes[lane], y = old_lanes[lane];
      sums[lane].x += x - y;
      sums[lane].y += (x - y) * (x + y);  // exactly zero for a row that did not change; x * x - y * y may not be
    }
  }
}

// The sums of `groups` groups over one block of rows; thread g ends up with group g's. Rows are added in fp32, channels
// in fp64: a group may have many. `lane_sums` holds, for each of blockDim.y rows of threads, the channel that is lane l
// of vector x at [l * blockDim.x + x]: neighbouring threads then write neighbouring banks.
template <typename T, int kWidth, bool kUpdate>
__device__ Sums sum_groups(const GroupStatsParams& params, int64_t term, int64_t b, int64_t first_row,
                           int32_t row_count, int64_t first_channel, int32_t groups, int32_t group_size,
                           float2* lane_sums) {
  const int32_t channels = groups * group_size;
  const int32_t chunk = blockDim.x * kWidth;
  const int32_t thread = stats_thread();
  Sums total = {0.0, 0.0};

  for (int32_t chunk_start = 0; chunk_start < channels; chunk_start += chunk) {
    const int32_t channel = chunk_start + threadIdx.x * kWidth;
    float2 sums[kWidth] = {};
    if (channel < channels) {
      add_rows<T, kWidth, kUpdate>(params, term, b, first_row, row_count, first_channel + channel, sums);
    }
#pragma unroll
    for (int lane = 0; lane < kWidth; ++lane) {
      lane_sums[threadIdx.y * chunk + lane * blockDim.x + threadIdx.x] = sums[lane];
    }
    __syncthreads();
    for (int32_t slot = thread; slot < chunk; slot += blockDim.x * blockDim.y) {
      for (int32_t y = 1; y < static_cast<int32_t>(blockDim.y); ++y) {
        lane_sums[slot].x += lane_sums[y * chunk + slot].x;
        lane_sums[slot].y += lane_sums[y * chunk + slot].y;
      }
    }
    __syncthreads();
    if (thread < groups) {
      const int32_t begin = max(thread * group_size, chunk_start) - chunk_start;
      const int32_t end = min((thread + 1) * group_size, chunk_start + chunk) - chunk_start;
      for (int32_t c = begin; c < end; ++c) {
        const float2 sum = lane_sums[c % kWidth * blockDim.x + c / kWidth];
        total.sum += sum.x;
        total.squares += sum.y;
      }
    }
    __syncthreads();  // the next chunk, or the next block of rows, overwrites `lane_sums`
  }
  return total;
}

// Adds `count` rows of sums to the first of them, [columns] each and `stride` apart. Each of kStatsLanes threads adds
// every kStatsLanes-th row in order; then one of them adds their sums in order.
__device__ inline void add_sums(double* partial, int count, int columns, int64_t stride, double* lanes) {
  const int at_once = stats_threads() / kStatsLanes, lane = stats_thread() / at_once;
  for (int first = 0; first < columns; first += at_once) {
    const int column = first + stats_thread() % at_once;
    double sum = 0.0;
    if (lane < kStatsLanes && column < columns) {
#pragma unroll 8
      for (int row = lane; row < count; row += kStatsLanes) sum += __ldcg(partial + row * stride + column);
    }
    lanes[stats_thread()] = sum;
    __syncthreads();
    if (lane == 0 && column < columns) {
      for (int other = 1; other < kStatsLanes; ++other) sum += lanes[other * at_once + stats_thread()];
      partial[column] = sum;
    }
    __syncthreads();  // the next columns overwrite `lanes`
  }
}

// The sums of term 0 of a sample over all rows, when the last block has added the chunks; those of the next term are
// `sums_stride` numbers further.
__device__ inline double* whole_sums(const GroupStatsParams& params, int64_t row_blocks, int64_t b, int64_t group) {
  return params.partial + (b * row_blocks * params.groups + group) * 2;
}

__device__ inline int64_t sums_stride(const GroupStatsParams& params, int64_t row_blocks) {
  return params.batch * row_blocks * params.groups * 2;
}

// Puts the partial sums of this block's chunk, and then of its sample, together; true in the sample's last block.
__device__ inline bool ends_sample(const GroupStatsParams& params, const StatsTiling& tiling, int64_t term, int64_t b,
                                   int number, int groups, int64_t first_group, double* lanes) {
  const int64_t width = params.groups * 2, stride = sums_stride(params, tiling.blocks_of_rows);
  const int tile = static_cast<int>(blockIdx.y), terms = static_cast<int>(params.terms), chunks = tiling.chunks;
  const int chunk = number / tiling.chunk_blocks, first = chunk * tiling.chunk_blocks;
  const int in_chunk = min(tiling.chunk_blocks, tiling.blocks_of_rows - first);
  double* const sums = whole_sums(params, tiling.blocks_of_rows, b, first_group);
  const int counters = (static_cast<int>(b - tiling.first_sample) * tiling.tiles + tile) * (terms * chunks + 1);

  const int counter = counters + 1 + static_cast<int>(term) * chunks + chunk;
  if (!is_last_block(tiling.slice, counter, in_chunk)) return false;
  add_sums(sums + term * stride + first * width, in_chunk, groups * 2, width, lanes);
  if (!is_last_block(tiling.slice, counters, terms * chunks)) return false;
  for (int k = 0; k < terms && chunks > 1; ++k) {
    add_sums(sums + k * stride, chunks, groups * 2, tiling.chunk_blocks * width, lanes);
  }
  return true;
}

template <typename T, int kWidth, bool kUpdate, typename Work>
__global__ void __launch_bounds__(kStatsThreads, 4) group_stats_rows_kernel(const Work work, const StatsTiling tiling) {
  __shared__ float2 lane_sums[kStatsThreads * kWidth];
  __shared__ double lanes[kStatsThreads];
  const GroupStatsParams& params = work.sums;
  const int64_t first_group = static_cast<int64_t>(blockIdx.y) * tiling.tile_groups;
  const int64_t groups_left = params.groups - first_group;
  const int32_t groups = static_cast<int32_t>(min(groups_left, static_cast<int64_t>(tiling.tile_groups)));

  for (int64_t block = blockIdx.x; block < tiling.blocks; block += gridDim.x) {
    const int64_t sample = block / tiling.row_blocks;  // of [K, samples]
    const int64_t term = sample / tiling.samples, b = tiling.first_sample + sample % tiling.samples;
    const int number = static_cast<int>(block % tiling.row_blocks);
    const int64_t first_row = number * kStatsRows;
    const int32_t rows = static_cast<int32_t>(min(params.row_count - first_row, kStatsRows));
    const Sums total = sum_groups<T, kWidth, kUpdate>(params, term, b, first_row, rows, first_group * tiling.group_size,
                                                      groups, tiling.group_size, lane_sums);
    if (stats_thread() < groups) {
      const int64_t slot = (term * params.batch + b) * tiling.blocks_of_rows + number;
      double* partial = params.partial + (slot * params.groups + first_group + stats_thread()) * 2;
      partial[0] = total.sum;
      partial[1] = total.squares;
    }
    if (ends_sample(params, tiling, term, b, number, groups, first_group, lanes)) {
      work.end(tiling, b, first_group, groups);
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------
// Launchers
// ---------------------------------------------------------------------------------------------------------------

// The tiling with as many groups per tile as fill kStatsVectors vectors, in tiles of about the same size.
inline StatsTiling tile_groups(const GroupStatsParams& params, int64_t width) {
  const int64_t group_size = params.channels / params.groups;
  const int64_t step = width / std::gcd(width, group_size);  // every `step` groups end on a vector boundary
  const int64_t most = std::max<int64_t>(kStatsVectors * width / group_size, 1);
  const int64_t even = ceil_div(params.groups, ceil_div(params.groups, most));
  const int64_t groups = ceil_div(even, step) * step;

  const int64_t vectors = ceil_div(std::min(groups, params.groups) * group_size, width);
  const int64_t wide = std::min<int64_t>(vectors, kStatsVectors);
  const int64_t tall = std::min<int64_t>(kStatsThreads / wide, kStatsRows);
  const int64_t row_blocks = stats_blocks(params);
  StatsTiling tiling = {};
  tiling.row_blocks = FastDivisor(row_blocks);
  tiling.blocks_of_rows = static_cast<int32_t>(row_blocks);
  tiling.group_size = static_cast<int32_t>(group_size);
  tiling.tile_groups = static_cast<int32_t>(groups);
  tiling.tiles = static_cast<int32_t>(ceil_div(params.groups, groups));
  tiling.threads = dim3(static_cast<unsigned>(wide), static_cast<unsigned>(tall));
  return tiling;
}

// Chunks so large that the counters of one sample fit.
inline void choose_chunks(StatsTiling& tiling, const GroupStatsParams& params) {
  for (int64_t blocks = kChunkBlocks;; blocks *= 2) {
    tiling.chunk_blocks = static_cast<int32_t>(blocks);
    tiling.chunks = static_cast<int32_t>(ceil_div(tiling.blocks_of_rows, blocks));
    if (tiling.counters(params.terms, 1) <= kMostCounters) return;
    if (tiling.chunks == 1) throw std::runtime_error("sige: group_stats: too many channels for one launch");
  }
}

// Runs the work on all samples, in one launch as long as there are counters for them.
template <typename T, int kWidth, bool kUpdate, typename Work>
void launch_rows(const char* name, const Work& work, void* stream) {
  const GroupStatsParams& params = work.sums;
  StatsTiling tiling = tile_groups(params, kWidth);
  choose_chunks(tiling, params);
  tiling.slice = counter_slice(name, stream);
  const int64_t most = kMostCounters / tiling.counters(params.terms, 1);
  for (int64_t first = 0; first < params.batch; first += most) {
    const int64_t samples = std::min(most, params.batch - first);
    tiling.first_sample = first;
    tiling.samples = FastDivisor(samples);
    tiling.blocks = params.terms * samples * tiling.blocks_of_rows;
    const LaunchShape shape = {tiling.blocks, tiling.threads, tiling.tiles};
    launch(name, group_stats_rows_kernel<T, kWidth, kUpdate, Work>, shape, stream, work, tiling);
  }
}

template <bool kUpdate, typename Work>
void launch_stats(const char* name, const Work& work, void* stream) {
  const GroupStatsParams& params = work.sums;
  dispatch_dtype(params.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    bool vectorise = can_vectorise<T>({params.rows}, {params.channels});
    for (int64_t k = 0; k < params.terms; ++k) vectorise = vectorise && can_vectorise<T>({params.old_rows[k]}, {});
    vectorise ? launch_rows<T, kVectorWidth<T>, kUpdate>(name, work, stream)
              : launch_rows<T, 1, kUpdate>(name, work, stream);
  });
}

}  // namespace sige::cuda
