// row_product on CUDA: a product on tensor cores, fp16 or bf16, whose left rows are put together through a gather map.
//
// A block takes one tile of the output. Its loop copies a slice of K, of its rows' pieces and of its weight rows, into
// one stage of a pipeline in shared memory while the warps multiply another. Where the tiles would not fill the device,
// several blocks share K; then they write partial sums, and the last block of a tile adds them in a fixed order.
#include "common/last_block.cuh"
#include "common/product_tile.cuh"
#include "row_product.h"

namespace sige::cuda {
namespace {

// ---------------------------------------------------------------------------------------------------------------
// Kernels
// ---------------------------------------------------------------------------------------------------------------

static_assert(kMostSplitTiles <= kMostCounters, "each tile of a split product has a counter");

// The column tiles of all layers lie side by side; layer_tiles of them belong to one.
struct WorkGrid {
  int64_t row_tiles;  // neighbours share the weights, which come from memory; the rows stay in the L2 cache
  int64_t column_tiles, layer_tiles;
  int64_t blocks;  // row_tiles * column_tiles * splits
  int slice;       // of the counters, one for each tile; unused with one split
};

// The parameters of one layer: the first layer there is the one.
__device__ inline MappedProductParams layer_params(const MappedProductParams& params, int64_t layer) {
  MappedProductParams one = params;
  const int64_t size = params.rows * params.columns;
  one.weights[0] = params.weights[layer];
  one.biases[0] = params.biases[layer];
  one.out = static_cast<uint16_t*>(params.out) + layer * size;  // 16-bit types
  if (params.partials) one.partials = params.partials + layer * params.plan.splits * size;
  return one;
}

// pieces[tap, row] = the piece of a row of A, or null for zeros.
template <typename Tile, typename T>
__device__ void find_pieces(const MappedProductParams& params, int64_t first_row, const T** pieces) {
  const int taps = static_cast<int>(params.taps);
  for (int i = static_cast<int>(threadIdx.x); i < Tile::kRows * taps; i += kProductThreads) {
    const int row = i / taps, tap = i % taps;
    const int64_t flat = first_row + row;
    const T* piece = nullptr;
    if (flat < params.rows && params.index) {
      const int64_t batch = flat / params.sample_rows, slot = flat % params.sample_rows * taps + tap;
      piece = params.source.row<T>(batch, params.index[slot]);
    } else if (flat < params.rows) {
      piece = static_cast<const T*>(params.source.packed) + flat * params.source.channels;
    }
    pieces[tap * Tile::kRows + row] = piece;
  }
}

template <typename Tile, typename T>
__device__ void multiply(StageCopier<Tile, T>& copier, int steps, T* stages, WarpProduct<Tile, T>& product) {
#pragma unroll
  for (int step = 0; step < Tile::kStages - 1; ++step) {
    if (step < steps) copier.copy(stages + step * Tile::kStageElements);
    commit_copies();
  }
  int filled = Tile::kStages - 1, ready = 0;  // the stage to fill next, and the one to multiply
  for (int step = 0; step < steps; ++step) {
    wait_copies<Tile::kStages - 2>();
    __syncthreads();  // all copies of this stage have arrived, and no warp reads the stage that is filled now
    if (step + Tile::kStages - 1 < steps) copier.copy(stages + filled * Tile::kStageElements);
    commit_copies();
    product.add_stage(stages + ready * Tile::kStageElements);
    filled = filled + 1 == Tile::kStages ? 0 : filled + 1;
    ready = ready + 1 == Tile::kStages ? 0 : ready + 1;
  }
  wait_copies<0>();
  __syncthreads();  // the memory of the stages is free
}

template <typename Tile, typename T>
__device__ void store_tile(const MappedProductParams& params, const WarpProduct<Tile, T>& product, int64_t first_row,
                           int64_t first_column, int64_t split, float* shared) {
  store_sums(product, shared, [&](int tile_row, int tile_column, float (&sums)[kProductVector]) {
    const int64_t row = first_row + tile_row, column = first_column + tile_column;
    if (row >= params.rows || column >= params.columns) return;
    if (params.plan.splits == 1) return store_output<T>(params, row, column, sums);
    float* to = params.partials + (split * params.rows + row) * params.columns + column;
    *reinterpret_cast<float4*>(to) = make_float4(sums[0], sums[1], sums[2], sums[3]);
    *reinterpret_cast<float4*>(to + 4) = make_float4(sums[4], sums[5], sums[6], sums[7]);
  });
}

// A vector of a tile, and where it lies in [R, C_out].
template <typename Tile>
struct TilePlace {
  static constexpr int kVectors = Tile::kColumns / kProductVector;  // of a row
  int64_t row, column;

  __device__ TilePlace(int64_t first_row, int64_t first_column, int vector)
      : row(first_row + vector / kVectors), column(first_column + vector % kVectors * kProductVector) {}
  __device__ bool inside(const MappedProductParams& params) const {
    return row < params.rows && column < params.columns;
  }
};

// out = the splits' partial sums of a tile, then bias and residual. A thread holds kAtOnce vectors, so that it waits
// for many loads at a time; where a vector lies outside, it loads the first one and drops the sums.
template <typename Tile, typename T>
__device__ void add_splits(const MappedProductParams& params, int64_t first_row, int64_t first_column) {
  using Place = TilePlace<Tile>;
  constexpr int kAtOnce = 4;
  const int64_t size = params.rows * params.columns;
  for (int first = static_cast<int>(threadIdx.x); first < Tile::kRows * Place::kVectors;
       first += kAtOnce * kProductThreads) {
    const float* from[kAtOnce];
    float sums[kAtOnce][kProductVector] = {};
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const Place place(first_row, first_column, first + i * kProductThreads);
      from[i] = params.partials + (place.inside(params) ? place.row * params.columns + place.column : 0);
    }
#pragma unroll 2
    for (int split = 0; split < params.plan.splits; ++split) {
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const float4 low = __ldcg(reinterpret_cast<const float4*>(from[i]));
        const float4 high = __ldcg(reinterpret_cast<const float4*>(from[i]) + 1);
        const float lanes[kProductVector] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
        from[i] += size;
#pragma unroll
        for (int lane = 0; lane < kProductVector; ++lane) sums[i][lane] += lanes[lane];
      }
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const Place place(first_row, first_column, first + i * kProductThreads);
      if (place.inside(params)) store_output<T>(params, place.row, place.column, sums[i]);
    }
  }
}

template <typename Tile, typename T>
__global__ void __launch_bounds__(kProductThreads, Tile::kBlocksPerSm)
    row_product_kernel(const MappedProductParams all, const WorkGrid grid) {
  SIGE_DYNAMIC_SHARED(uint4, shared);
  T* stages = reinterpret_cast<T*>(shared);
  const T** pieces = reinterpret_cast<const T**>(stages + Tile::kStages * Tile::kStageElements);
  const int size = static_cast<int>(all.taps * all.source.channels);
  const int split_size = all.plan.steps * Tile::kDepth;

  for (int64_t block = blockIdx.x; block < grid.blocks; block += gridDim.x) {
    const int64_t first_row = block % grid.row_tiles * Tile::kRows;
    const int64_t column_tile = block / grid.row_tiles % grid.column_tiles;
    const int64_t first_column = column_tile % grid.layer_tiles * Tile::kColumns;
    const MappedProductParams params = layer_params(all, column_tile / grid.layer_tiles);
    const int64_t split = block / grid.row_tiles / grid.column_tiles;
    const int begin = static_cast<int>(split) * split_size, end = min(begin + split_size, size);
    find_pieces<Tile, T>(params, first_row, pieces);
    __syncthreads();
    WarpProduct<Tile, T> product = {};
    StageCopier<Tile, T> copier(params, pieces, first_column, begin, end);
    multiply<Tile, T>(copier, (end - begin + Tile::kDepth - 1) / Tile::kDepth, stages, product);
    store_tile<Tile, T>(params, product, first_row, first_column, split, reinterpret_cast<float*>(shared));
    const auto tile = static_cast<int>(block % (grid.row_tiles * grid.column_tiles));  // with splits: kMostSplitTiles
    if (params.plan.splits > 1 && is_last_block(grid.slice, tile, params.plan.splits)) {
      add_splits<Tile, T>(params, first_row, first_column);
    }
    __syncthreads();  // the next tile overwrites the shared memory
  }
}

// ---------------------------------------------------------------------------------------------------------------
// Launchers
// ---------------------------------------------------------------------------------------------------------------

template <typename Tile, typename T>
void launch_tile(const MappedProductParams& params, void* stream) {
  const int64_t row_tiles = ceil_div(params.rows, Tile::kRows), layer_tiles = ceil_div(params.columns, Tile::kColumns);
  const int64_t column_tiles = params.layers * layer_tiles;
  const bool splits = params.plan.splits > 1;
  const WorkGrid grid = {row_tiles, column_tiles, layer_tiles, row_tiles * column_tiles * params.plan.splits,
                         splits ? counter_slice("row_product", stream) : 0};
  const LaunchShape shape = {grid.blocks, dim3(kProductThreads), 1, Tile::shared_bytes(params.taps)};
  launch("row_product", row_product_kernel<Tile, T>, shape, stream, params, grid);
}

template <typename T>
void launch_product(const MappedProductParams& params, void* stream) {
  switch (params.plan.tile) {
    case ProductTileSize::k128x128:
      return launch_tile<ProductTile<128, 128, 32, 4, 2>, T>(params, stream);
    case ProductTileSize::k64x128:
      return launch_tile<ProductTile<64, 128, 64, 3, 2>, T>(params, stream);
    case ProductTileSize::k64x64:
      return launch_tile<ProductTile<64, 64, 64, 4, 3>, T>(params, stream);
  }
}

int device_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device), "row_product");
  check(cudaDeviceGetAttribute(&value, attribute, device), "row_product");
  return value;
}

}  // namespace

ProductDevice product_device() {
  return {device_attribute(cudaDevAttrMultiProcessorCount), device_attribute(cudaDevAttrComputeCapabilityMajor)};
}

void row_product(const MappedProductParams& params, void* stream) {
  dispatch_dtype(params.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if constexpr (sizeof(T) == 2) {
      launch_product<T>(params, stream);
    } else {
      throw std::runtime_error("sige: row_product takes fp16 and bf16 on CUDA: use the platform's product for fp32");
    }
  });
}

}  // namespace sige::cuda
