#include "common/fast_divisor.h"
#include "common/row_tiling.cuh"
#include "scatter.h"

namespace sige::cuda {
namespace {

// ---------------------------------------------------------------------------------------------------------------
// Kernels
// ---------------------------------------------------------------------------------------------------------------

constexpr int kScatterLoadsInFlight = 4;
constexpr int kTileRows = 64;
constexpr int kTileChannels = 32;
constexpr int kTileThreads = 256;

template <typename T, int kWidth>
__device__ Packed<T, kWidth> add(const Packed<T, kWidth>& a, const Packed<T, kWidth>& b) {
  float sums[kWidth], terms[kWidth];
  a.unpack(sums);
  b.unpack(terms);
#pragma unroll
  for (int lane = 0; lane < kWidth; ++lane) sums[lane] += terms[lane];
  return Packed<T, kWidth>::pack(sums);
}

// Channels last (stride_c = 1): rows of packed and of dense both run along C.
template <typename T, int kWidth>
__device__ void copy_rows(const ScatterParams& params, const int64_t* offsets, int64_t first, int32_t count,
                          int64_t channel) {
  using Vector = Packed<T, kWidth>;
  const int64_t start = first * params.channels + channel;
  const T* packed = static_cast<const T*>(params.packed) + start;
  const T* residual = params.residual ? static_cast<const T*>(params.residual) + start : nullptr;
  T* dense = static_cast<T*>(params.dense) + channel;
  const int32_t step = blockDim.y;
  for (int32_t begin = threadIdx.y; begin < count; begin += kScatterLoadsInFlight * step) {
    Vector vectors[kScatterLoadsInFlight];
#pragma unroll
    for (int load = 0; load < kScatterLoadsInFlight; ++load) {
      const int32_t row = begin + load * step;
      if (row < count) vectors[load] = Vector::load(packed + row * params.channels);
    }
#pragma unroll
    for (int load = 0; load < kScatterLoadsInFlight; ++load) {
      const int32_t row = begin + load * step;
      if (row >= count) break;
      if (residual) {
        vectors[load] = add(vectors[load], Vector::load(residual + row * params.channels));
      }
      vectors[load].store(dense + offsets[row]);
    }
  }
}

struct ScatterDivisors {
  FastDivisor rows, width;
};

template <typename T, int kWidth>
__global__ void __launch_bounds__(kRowThreads)
    scatter_rows_kernel(const ScatterParams params, const RowTiling tiling, const ScatterDivisors divisors) {
  __shared__ int64_t offsets[kMaxRowsPerBlock];  // of each row's position in dense
  const int32_t thread = threadIdx.y * blockDim.x + threadIdx.x;
  const int64_t vector = static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x;

  for (int64_t block = blockIdx.x; block < tiling.blocks; block += gridDim.x) {
    const int64_t first = block * tiling.rows_per_block;
    const int64_t left = tiling.rows - first;
    const int32_t count = static_cast<int32_t>(left < tiling.rows_per_block ? left : tiling.rows_per_block);
    for (int32_t i = thread; i < count; i += blockDim.x * blockDim.y) {
      const int64_t row = first + i;  // of the flattened [B * N]
      const int32_t position = params.index[row % divisors.rows];
      offsets[i] = dense_offset(params, row / divisors.rows, position, divisors.width);
    }
    __syncthreads();
    if (vector < tiling.vectors) copy_rows<T, kWidth>(params, offsets, first, count, vector * kWidth);
    __syncthreads();  // the next rows overwrite `offsets`
  }
}

// Any other layout, above all [B, C, H, W]: rows are read along C, transposed in shared memory, and written along the
// positions, which are neighbours in memory where they are neighbours in the region.
struct TileGrid {
  FastDivisor row_tiles;      // per sample
  FastDivisor channel_tiles;  // per sample
  FastDivisor width;          // of dense
  int64_t tiles;              // B * row_tiles * channel_tiles
};

template <typename T>
__global__ void __launch_bounds__(kTileThreads) scatter_tile_kernel(const ScatterParams params, const TileGrid grid) {
  __shared__ float tile[kTileRows][kTileChannels + 1];  // one more column: a column's elements lie in 32 banks
  __shared__ int64_t offsets[kTileRows];
  const int32_t thread = threadIdx.x;

  for (int64_t t = blockIdx.x; t < grid.tiles; t += gridDim.x) {
    const int64_t first_channel = t % grid.channel_tiles * kTileChannels;
    const int64_t first_row = t / grid.channel_tiles % grid.row_tiles * kTileRows;
    const int64_t b = t / grid.channel_tiles / grid.row_tiles;
    const int64_t channels_left = params.channels - first_channel, rows_left = params.rows - first_row;
    const int32_t channels = static_cast<int32_t>(channels_left < kTileChannels ? channels_left : kTileChannels);
    const int32_t rows = static_cast<int32_t>(rows_left < kTileRows ? rows_left : kTileRows);

    if (thread < rows) offsets[thread] = dense_offset(params, b, params.index[first_row + thread], grid.width);
    for (int32_t i = thread; i < rows * kTileChannels; i += kTileThreads) {
      const int32_t r = i / kTileChannels, c = i % kTileChannels;
      if (c >= channels) continue;
      const int64_t from = (b * params.rows + first_row + r) * params.channels + first_channel + c;
      float value = to_float(static_cast<const T*>(params.packed)[from]);
      if (params.residual) value += to_float(static_cast<const T*>(params.residual)[from]);
      tile[r][c] = value;
    }
    __syncthreads();
    for (int32_t i = thread; i < kTileRows * channels; i += kTileThreads) {
      const int32_t r = i % kTileRows, c = i / kTileRows;
      if (r >= rows) continue;
      T* dense = static_cast<T*>(params.dense);
      from_float(tile[r][c], dense + offsets[r] + (first_channel + c) * params.stride_c);
    }
    __syncthreads();  // the next tile overwrites this one
  }
}

// ---------------------------------------------------------------------------------------------------------------
// Launchers
// ---------------------------------------------------------------------------------------------------------------

template <typename T, int kWidth>
void launch_rows(const ScatterParams& params, void* stream) {
  const RowTiling tiling = tile_rows(params.batch * params.rows, params.channels / kWidth);
  const ScatterDivisors divisors = {FastDivisor(params.rows), FastDivisor(params.width)};
  launch("scatter", scatter_rows_kernel<T, kWidth>, tiling.shape(), stream, params, tiling, divisors);
}

template <typename T>
void launch_tiles(const ScatterParams& params, void* stream) {
  const int64_t row_tiles = ceil_div(params.rows, kTileRows);
  const int64_t channel_tiles = ceil_div(params.channels, kTileChannels);
  const TileGrid grid = {FastDivisor(row_tiles), FastDivisor(channel_tiles), FastDivisor(params.width),
                         params.batch * row_tiles * channel_tiles};
  launch("scatter", scatter_tile_kernel<T>, {grid.tiles, dim3(kTileThreads)}, stream, params, grid);
}

}  // namespace

void scatter(const ScatterParams& params, void* stream) {
  dispatch_dtype(params.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (params.stride_c != 1) return launch_tiles<T>(params, stream);
    can_vectorise<T>({params.dense, params.packed, params.residual},
                     {params.channels, params.stride_b, params.stride_h, params.stride_w})
        ? launch_rows<T, kVectorWidth<T>>(params, stream)
        : launch_rows<T, 1>(params, stream);
  });
}

}  // namespace sige::cuda
