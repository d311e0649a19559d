#include <numeric>

#include "common/fast_divisor.h"
#include "common/launch.cuh"
#include "group_stats.h"

namespace sige::cuda {
namespace {

// ---------------------------------------------------------------------------------------------------------------
// Kernels
// ---------------------------------------------------------------------------------------------------------------

constexpr int kStatsThreads = 256;
constexpr int kStatsVectors = 32;  // blockDim.x at most: vectors side by side, a warp's worth
constexpr int kTotalColumns = 32;  // block of the second kernel: numbers ...
constexpr int kTotalLanes = 16;    // ... and threads that share the adding of one

// A block takes kStatsRows rows of one sample and `tile_groups` whole groups: blockDim.x vectors side by side,
// blockDim.y rows at a time. A tile starts on a vector boundary, which groups on their own need not.
struct StatsTiling {
  int64_t blocks;          // K * B * row_blocks
  FastDivisor row_blocks;  // per sample
  FastDivisor batch;       // B
  int32_t group_size;      // channels of a group
  int32_t tile_groups;     // at most kStatsThreads: one thread keeps one group's sums
  dim3 threads;
};

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
  const int32_t thread = threadIdx.y * blockDim.x + threadIdx.x;
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

template <typename T, int kWidth, bool kUpdate>
__global__ void __launch_bounds__(kStatsThreads, 4)
    group_stats_rows_kernel(const GroupStatsParams params, const StatsTiling tiling) {
  __shared__ float2 lane_sums[kStatsThreads * kWidth];
  const int64_t first_group = static_cast<int64_t>(blockIdx.y) * tiling.tile_groups;
  const int64_t groups_left = params.groups - first_group;
  const int32_t groups = static_cast<int32_t>(min(groups_left, static_cast<int64_t>(tiling.tile_groups)));
  const int32_t thread = threadIdx.y * blockDim.x + threadIdx.x;

  for (int64_t block = blockIdx.x; block < tiling.blocks; block += gridDim.x) {
    const int64_t sample = block / tiling.row_blocks;  // of [K * B]
    const int64_t first_row = block % tiling.row_blocks * kStatsRows;
    const int32_t rows = static_cast<int32_t>(min(params.row_count - first_row, kStatsRows));
    const Sums total =
        sum_groups<T, kWidth, kUpdate>(params, sample / tiling.batch, sample % tiling.batch, first_row, rows,
                                       first_group * tiling.group_size, groups, tiling.group_size, lane_sums);
    if (thread < groups) {
      double* partial = params.partial + (block * params.groups + first_group + thread) * 2;
      partial[0] = total.sum;
      partial[1] = total.squares;
    }
  }
}

// out = base + the partial sums. Each of kTotalLanes threads adds every kTotalLanes-th block of rows in order; then the
// first thread adds their sums in order. So the order is the same at every call.
__global__ void __launch_bounds__(kTotalColumns* kTotalLanes)
    group_stats_total_kernel(const GroupStatsParams params, int64_t row_blocks, const FastDivisor by_width,
                             const FastDivisor by_sums) {
  __shared__ double lanes[kTotalLanes][kTotalColumns];
  const int64_t width = params.groups * 2;  // as `by_width`
  const int64_t count = params.terms * params.batch * width;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * kTotalColumns; first < count;
       first += static_cast<int64_t>(gridDim.x) * kTotalColumns) {
    const int64_t slot = first + threadIdx.x;
    double sum = 0.0;
    if (slot < count) {
      const double* partial = params.partial + slot / by_width * row_blocks * width + slot % by_width;
#pragma unroll 4
      for (int64_t block = threadIdx.y; block < row_blocks; block += kTotalLanes) sum += partial[block * width];
    }
    lanes[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && slot < count) {
      const double* base = params.base[slot / by_sums];
      double total = base ? base[slot % by_sums] : 0.0;
      for (int lane = 0; lane < kTotalLanes; ++lane) total += lanes[lane][threadIdx.x];
      params.out[slot] = total;
    }
    __syncthreads();  // the next columns overwrite `lanes`
  }
}

// ---------------------------------------------------------------------------------------------------------------
// Launchers
// ---------------------------------------------------------------------------------------------------------------

// The tiling with as many groups per tile as fill kStatsVectors vectors, in tiles of about the same size.
StatsTiling tile_groups(const GroupStatsParams& params, int64_t width) {
  const int64_t group_size = params.channels / params.groups;
  const int64_t step = width / std::gcd(width, group_size);  // every `step` groups end on a vector boundary
  const int64_t most = std::max<int64_t>(kStatsVectors * width / group_size, 1);
  const int64_t even = ceil_div(params.groups, ceil_div(params.groups, most));
  const int64_t groups = ceil_div(even, step) * step;

  const int64_t vectors = ceil_div(std::min(groups, params.groups) * group_size, width);
  const int64_t wide = std::min<int64_t>(vectors, kStatsVectors);
  const int64_t tall = std::min<int64_t>(kStatsThreads / wide, kStatsRows);
  const int64_t row_blocks = ceil_div(params.row_count, kStatsRows);
  return {params.terms * params.batch * row_blocks,
          FastDivisor(row_blocks),
          FastDivisor(params.batch),
          static_cast<int32_t>(group_size),
          static_cast<int32_t>(groups),
          dim3(static_cast<unsigned>(wide), static_cast<unsigned>(tall))};
}

template <typename T, int kWidth>
void launch_rows(const GroupStatsParams& params, void* stream) {
  const StatsTiling tiling = tile_groups(params, kWidth);
  const LaunchShape shape = {tiling.blocks, tiling.threads, ceil_div(params.groups, tiling.tile_groups)};
  const auto kernel =
      params.old_rows[0] ? group_stats_rows_kernel<T, kWidth, true> : group_stats_rows_kernel<T, kWidth, false>;
  launch("group_stats", kernel, shape, stream, params, tiling);
}

}  // namespace

void group_stats_partial(const GroupStatsParams& params, void* stream) {
  dispatch_dtype(params.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    bool vectorise = can_vectorise<T>({params.rows}, {params.channels});
    for (int64_t k = 0; k < params.terms; ++k) vectorise = vectorise && can_vectorise<T>({params.old_rows[k]}, {});
    vectorise ? launch_rows<T, kVectorWidth<T>>(params, stream) : launch_rows<T, 1>(params, stream);
  });
}

void group_stats(const GroupStatsParams& params, void* stream) {
  group_stats_partial(params, stream);
  const LaunchShape shape = {ceil_div(params.terms * params.batch * params.groups * 2, kTotalColumns),
                             dim3(kTotalColumns, kTotalLanes)};
  launch("group_stats", group_stats_total_kernel, shape, stream, params, ceil_div(params.row_count, kStatsRows),
         FastDivisor(params.groups * 2), FastDivisor(params.batch * params.groups * 2));
}

}  // namespace sige::cuda
