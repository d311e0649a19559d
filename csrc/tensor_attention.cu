#include "common/key_pipe.cuh"
#include "common/last_block.cuh"
#include "tensor_attention.h"

// Blocks that fill an H100 or H200: two on each of 132 SMs. It is the same on every GPU, so that the number of splits
// follows from the shapes, and the bits with it. The tests lower it, so that small shapes split in every way.
#ifndef SIGE_FULL_GRID
#define SIGE_FULL_GRID (2 * 132)
#endif

namespace sige::cuda {
namespace {

constexpr int64_t kFullGrid = SIGE_FULL_GRID;
constexpr int64_t kMostSplits = 16;      // more would read and write more parts than they save
constexpr int64_t kLeastSplitTiles = 4;  // key tiles, for which a block's start and a part's way through memory pay

static_assert(kFullGrid <= kMostCounters, "each block of queries whose keys are split has a counter");

// ---------------------------------------------------------------------------------------------------------------
// Kernels
// ---------------------------------------------------------------------------------------------------------------

// The work of one launch. An item is one block of queries over one split of the keys; the items of one head are
// neighbours, because they read the same keys.
struct TensorGrid {
  int query_blocks;  // of one head
  int key_tiles;     // all of them
  int splits;
  int split_tiles;  // key tiles of a split
  int64_t items;    // B * Hd * splits * query_blocks
  int slice;        // of the counters, one for each block of queries; unused with one split
};

template <typename Shape>
struct WorkItem {
  QueryBlock block;
  int split;
  int counter;  // of the block of queries

  __device__ WorkItem(const BlockAttentionParams& params, const TensorGrid& grid, int item) {
    const int heads = static_cast<int>(params.heads), number = item % grid.query_blocks;
    const int head = item / grid.query_blocks / grid.splits;  // of all samples
    block = {head / heads, head % heads, number * Shape::kRows};
    split = item / grid.query_blocks % grid.splits;
    counter = head * grid.query_blocks + number;
  }
};

// The rows [S, B, N, Hd] of fp32 outputs and of log2 of the weights' sums that the splits leave in the workspace.
struct PartialRows {
  float* out;      // [S, B, N, Hd, D]
  float* log_sum;  // [S, B, N, Hd]
  int64_t rows;    // B * N * Hd

  __device__ PartialRows(const BlockAttentionParams& params, int64_t splits)
      : out(params.workspace), rows(params.batch * params.queries * params.heads) {
    log_sum = out + splits * rows * params.head_size;
  }
};

// The rows of a block of queries in [B, N, Hd].
struct BlockRows {
  int64_t first;
  int64_t step;  // from one query to the next
  int count;     // at most `most`

  __device__ BlockRows(const BlockAttentionParams& params, const QueryBlock& block, int most)
      : first((block.b * params.queries + block.first) * params.heads + block.head),
        step(params.heads),
        count(min(most, static_cast<int>(params.queries) - block.first)) {}
};

// Writes the output, or with several splits this split's part of it.
template <typename T, typename Shape>
__device__ void store_rows(const BlockAttentionParams& params, const TensorGrid& grid, const QueryBlock& block,
                           int split, const TensorSoftmax<T, Shape>& softmax) {
  const PartialRows partial(params, grid.splits);
  const int queries = static_cast<int>(params.queries), heads = static_cast<int>(params.heads);
#pragma unroll
  for (int r = 0; r < Shape::kRowTiles; ++r) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float sum = quad_sum(softmax.sum[r][half]);
      const float factor = sum != 0.0f ? __fdividef(1.0f, sum) : 0.0f;
      const int query = softmax.query_of(block, r, half);
      if (query >= queries) continue;
      const int64_t row = (block.b * queries + query) * heads + block.head;  // fits: takes_tensor_attention
      if (grid.splits == 1) {
        softmax.store_row(r, half, factor, params.head_size, static_cast<T*>(params.out) + row * params.head_size);
        continue;
      }
      const int64_t part = split * partial.rows + row;
      softmax.store_row(r, half, factor, params.head_size, partial.out + part * params.head_size);
      if (lane_id() % 4 == 0) partial.log_sum[part] = softmax.peak[r][half] + log2f(sum);  // no key: -inf
    }
  }
}

// Finds for each split of a block its share of each row's weights, [S, kRows], and what the sum of a row is multiplied
// by, [kRows].
template <typename Shape>
__device__ void find_shares(const PartialRows& partial, const BlockRows& rows, int splits, float* shares,
                            float* factors) {
  for (int row = static_cast<int>(threadIdx.x); row < rows.count; row += kTensorThreads) {
    const float* log_sum = partial.log_sum + rows.first + row * rows.step;
    float* const of_row = shares + row;
    float top = -INFINITY;
#pragma unroll 4
    for (int s = 0; s < splits; ++s) {
      const float value = __ldcg(log_sum + s * partial.rows);
      of_row[s * Shape::kRows] = value;
      top = fmaxf(top, value);
    }
    const float origin = top == -INFINITY ? 0.0f : top;  // no split has a key: every share is 2^-inf = 0
    float sum = 0.0f;
    for (int s = 0; s < splits; ++s) {
      const float share = fast_exp2(of_row[s * Shape::kRows] - origin);
      of_row[s * Shape::kRows] = share;
      sum += share;
    }
    factors[row] = sum != 0.0f ? __fdividef(1.0f, sum) : 0.0f;
  }
}

// Adds up the splits of a block, each with its share of the weights. A thread makes four channels of kAtOnce outputs,
// so that it waits for many loads at a time; beyond the last one it loads the first and drops the sum.
template <typename T, typename Shape>
__device__ void combine_splits(const BlockAttentionParams& params, int splits, const QueryBlock& block, float* shares) {
  constexpr int kAtOnce = 4;
  const PartialRows partial(params, splits);
  const BlockRows rows(params, block, Shape::kRows);
  float* const factors = shares + splits * Shape::kRows;
  find_shares<Shape>(partial, rows, splits, shares, factors);
  __syncthreads();
  const int vectors = static_cast<int>(params.head_size) / 4, items = rows.count * vectors;
  const int64_t stride = partial.rows * vectors;  // from one split to the next
  for (int first = static_cast<int>(threadIdx.x); first < items; first += kAtOnce * kTensorThreads) {
    const float4* from[kAtOnce];
    int row[kAtOnce];
    float sums[kAtOnce][4] = {};
    int64_t place[kAtOnce];  // in [B, N, Hd, D / 4]
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int item = first + i * kTensorThreads < items ? first + i * kTensorThreads : 0;
      row[i] = item / vectors;
      place[i] = (rows.first + row[i] * rows.step) * vectors + item % vectors;
      from[i] = reinterpret_cast<const float4*>(partial.out) + place[i];
    }
#pragma unroll 4
    for (int s = 0; s < splits; ++s) {
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const float4 part = __ldcg(from[i] + s * stride);
        const float share = shares[s * Shape::kRows + row[i]];
        sums[i][0] += share * part.x;
        sums[i][1] += share * part.y;
        sums[i][2] += share * part.z;
        sums[i][3] += share * part.w;
      }
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i * kTensorThreads >= items) continue;
      const float factor = factors[row[i]];
      const float lanes[4] = {sums[i][0] * factor, sums[i][1] * factor, sums[i][2] * factor, sums[i][3] * factor};
      Packed<T, 4>::pack(lanes).store(static_cast<T*>(params.out) + place[i] * 4);
    }
  }
}

// Walks over all key tiles of the pipe. Each round waits for one tile and starts a copy into the stage that the round
// before has read. A round without a copy makes an empty group, so that the count of groups is the count of tiles.
template <typename T, typename Shape>
__device__ void attend(KeyPipe<T, Shape>& pipe, const BlockAttentionParams& params, const QueryBlock& block,
                       const uint64_t (*seen)[Shape::kRowTiles], TensorSoftmax<T, Shape>& softmax) {
  int left = 0;  // tiles that are copied and not read
  for (int stage = 0; stage < Shape::kStages - 1; ++stage) {
    left += pipe.copy_next(stage);
    commit_copies();
  }
  softmax.reset();
  softmax.load_queries(params, block);
  for (int stage = 0; left > 0; stage = stage + 1 == Shape::kStages ? 0 : stage + 1) {
    wait_copies<Shape::kStages - 2>();
    __syncthreads();
    left += pipe.copy_next(stage == 0 ? Shape::kStages - 1 : stage - 1) - 1;
    commit_copies();
    softmax.add_tile(pipe.keys_of(stage), pipe.values_of(stage), seen[stage], params.scale);
  }
}

// The same number, which the compiler takes for another: what follows from it is computed again, and no register keeps
// it through the walk over the keys.
__device__ inline int forgotten(int number) {
#if !defined(SIGE_CUDA_SHIM)
  asm volatile("" : "+r"(number));
#endif
  return number;
}

template <typename T, typename Shape>
__global__ void __launch_bounds__(kTensorThreads, Shape::kBlocksPerSm)
    tensor_attention_kernel(const BlockAttentionParams params, const TensorGrid grid) {
  SIGE_DYNAMIC_SHARED(uint4, shared);
  __shared__ uint64_t seen[Shape::kStages][Shape::kRowTiles];  // bit k: the row tile sees key k of the stage
  TensorSoftmax<T, Shape> softmax;
  const int items = static_cast<int>(grid.items);
  for (int item = static_cast<int>(blockIdx.x); item < items; item += static_cast<int>(gridDim.x)) {
    const WorkItem<Shape> work(params, grid, item);
    const int first_tile = work.split * grid.split_tiles;
    const int end_tile = min(first_tile + grid.split_tiles, grid.key_tiles);
    KeyPipe<T, Shape> pipe(params, work.block, first_tile, end_tile, reinterpret_cast<T*>(shared), seen);
    attend(pipe, params, work.block, seen, softmax);
    const WorkItem<Shape> same(params, grid, forgotten(item));
    store_rows(params, grid, same.block, same.split, softmax);
    if (grid.splits > 1 && is_last_block(grid.slice, same.counter, grid.splits)) {
      combine_splits<T, Shape>(params, grid.splits, same.block, reinterpret_cast<float*>(shared));
    }
    __syncthreads();  // before the next item's copies
  }
}

// ---------------------------------------------------------------------------------------------------------------
// Launchers
// ---------------------------------------------------------------------------------------------------------------

int64_t most_splits(int64_t key_tiles) { return std::clamp<int64_t>(key_tiles / kLeastSplitTiles, 1, kMostSplits); }

// The share of the grid's time in which blocks work: the last wave is not full, nor is the last split.
double efficiency(int64_t blocks, int64_t key_tiles, int64_t splits) {
  const int64_t waves = ceil_div(blocks * splits, kFullGrid), split_tiles = ceil_div(key_tiles, splits);
  return static_cast<double>(blocks * key_tiles) / static_cast<double>(waves * kFullGrid * split_tiles);
}

// One split where the blocks of queries fill the GPU; else the fewest splits with which it works 85 % of the time, or
// those with which it works most.
int64_t choose_splits(int64_t blocks, int64_t key_tiles) {
  int64_t best = 1;
  if (blocks >= kFullGrid) return best;
  for (int64_t splits = 1; splits <= most_splits(key_tiles); ++splits) {
    if (efficiency(blocks, key_tiles, splits) > efficiency(blocks, key_tiles, best)) best = splits;
    if (efficiency(blocks, key_tiles, best) >= 0.85) break;
  }
  return best;
}

TensorGrid make_grid(const BlockAttentionParams& params, int row_tiles) {
  TensorGrid grid{};
  grid.query_blocks = ceil_div(params.queries, row_tiles * kTileQueries);
  grid.key_tiles = ceil_div(params.keys, kTileKeys);
  const int64_t blocks = params.batch * params.heads * grid.query_blocks;
  grid.split_tiles = ceil_div(grid.key_tiles, choose_splits(blocks, grid.key_tiles));
  grid.splits = grid.split_tiles ? ceil_div(grid.key_tiles, grid.split_tiles) : 1;
  grid.items = blocks * grid.splits;
  return grid;
}

// Two row tiles to a block halve what it reads of keys and values. They pay where no row tile stays empty, and where
// the fewer blocks still fill the GPU.
int choose_row_tiles(const BlockAttentionParams& params) {
  const int64_t row_tiles = ceil_div(params.queries, kTileQueries);
  if (params.head_size > 64 || row_tiles % 2 != 0) return 1;
  const int64_t blocks = params.batch * params.heads * row_tiles / 2;
  return blocks * most_splits(ceil_div(params.keys, kTileKeys)) >= kFullGrid ? 2 : 1;
}

template <typename T, int kHeadSize, int kRowTiles>
void launch_attention(const BlockAttentionParams& params, const TensorGrid& grid, void* stream) {
  using Shape = TensorTile<kHeadSize, kRowTiles>;
  static_assert(sizeof(float) * (kMostSplits + 1) * Shape::kRows <= Shape::kSharedBytes, "the shares of the splits");
  const LaunchShape shape = {grid.items, dim3(kTensorThreads), 1, Shape::kSharedBytes};
  launch("block_attention", tensor_attention_kernel<T, Shape>, shape, stream, params, grid);
}

template <typename T>
void launch_attention(const BlockAttentionParams& params, void* stream) {
  const int row_tiles = choose_row_tiles(params);
  TensorGrid grid = make_grid(params, row_tiles);
  if (grid.splits > 1) grid.slice = counter_slice("block_attention", stream);
  const auto run = [&](auto kernel) { kernel(params, grid, stream); };
  if (row_tiles == 2) {
    run(launch_attention<T, 64, 2>);
  } else if (params.head_size <= 48) {
    run(launch_attention<T, 48, 1>);
  } else if (params.head_size <= 64) {
    run(launch_attention<T, 64, 1>);
  } else if (params.head_size <= 80) {
    run(launch_attention<T, 80, 1>);
  } else if (params.head_size <= 128) {
    run(launch_attention<T, 128, 1>);
  } else {
    run(launch_attention<T, 160, 1>);
  }
}

}  // namespace

bool takes_tensor_attention(const BlockAttentionParams& params) {
  // The kernel counts rows and tiles in 32 bits.
  const int64_t most = std::max({params.batch * params.queries * params.heads, params.keys, params.key.packed_rows});
  return most < int64_t{1} << 30 && params.dtype != DType::kFloat32 && params.head_size <= kLargestTensorHead &&
         can_vectorise<uint16_t>({params.query, params.out, params.key.packed, params.key.recorded, params.value.packed,
                                  params.value.recorded},
                                 {params.head_size});
}

int64_t tensor_attention_workspace(const BlockAttentionParams& params) {
  const int64_t splits = make_grid(params, choose_row_tiles(params)).splits;
  const int64_t rows = params.batch * params.queries * params.heads;
  return splits == 1 ? 0 : splits * rows * (params.head_size + 1);
}

void tensor_attention(const BlockAttentionParams& params, void* stream) {
  if (params.dtype == DType::kFloat16) return launch_attention<__half>(params, stream);
  launch_attention<__nv_bfloat16>(params, stream);
}

}  // namespace sige::cuda
