#include "block_attention.h"
#include "common/attention_tile.cuh"
#include "tensor_attention.h"

namespace sige::cuda {
namespace {

// ---------------------------------------------------------------------------------------------------------------
// Kernels
// ---------------------------------------------------------------------------------------------------------------

template <typename T>
struct KeyRows {
  const T* key[kKeys];  // [Hd * D] each, or null: not seen
  const T* value[kKeys];
};

struct WorkGrid {
  int64_t query_tiles;
  int64_t tiles;  // B * Hd * query_tiles; the tiles of one head are neighbours, because they read the same keys
};

template <typename T>
__device__ void find_key_rows(const BlockAttentionParams& params, int64_t b, int64_t head, int64_t first_key,
                              KeyRows<T>& rows) {
  const int thread = threadIdx.y * kSide + threadIdx.x;
  if (thread >= kKeys) return;
  const int64_t slot = first_key + thread;
  const int32_t entry = slot < params.keys ? params.index[slot] : -1;
  const T* key = params.key.row<T>(b, entry);
  const T* value = params.value.row<T>(b, entry);
  rows.key[thread] = key ? key + head * params.head_size : nullptr;
  rows.value[thread] = value ? value + head * params.head_size : nullptr;
}

// Updates the softmax of one tile of queries with one tile of keys.
template <typename T, int kWidth, int kHeadSize>
__device__ void attend(const BlockAttentionParams& params, const KeyRows<T>& rows, const float* queries, float* slice,
                       float* weights, Softmax<kHeadSize>& softmax) {
  using Shape = Tile<kHeadSize>;
  float scores[Shape::kRows][Shape::kColumns] = {};
#pragma unroll
  for (int s = 0; s < Shape::kSlices; ++s) {
    const int64_t left = params.head_size - s * kSlice;
    if (left <= 0) break;
    const auto key_row = [&](int row) { return rows.key[row] ? rows.key[row] + s * kSlice : nullptr; };
    load_slice<T, kWidth, kKeys, kSlicePitch>(key_row, left, slice);
    __syncthreads();
    multiply_transposed(queries + s * kSlice, Shape::kQueryPitch, slice, scores);
    __syncthreads();
  }
  const float scale = params.scale * 1.44269504f;  // log2 e: exp2f is one instruction
#pragma unroll
  for (int j = 0; j < Shape::kColumns; ++j) {
    const bool seen = rows.key[threadIdx.x + j * kSide] != nullptr;
#pragma unroll
    for (int i = 0; i < Shape::kRows; ++i) scores[i][j] = seen ? scores[i][j] * scale : -INFINITY;
  }
  softmax.add_scores(scores, weights);
#pragma unroll
  for (int s = 0; s < Shape::kSlices; ++s) {
    const int64_t left = params.head_size - s * kSlice;
    if (left <= 0) break;
    const auto value_row = [&](int row) { return rows.value[row] ? rows.value[row] + s * kSlice : nullptr; };
    load_slice<T, kWidth, kKeys, kSlicePitch>(value_row, left, slice);
    __syncthreads();  // `slice`, and at the first one `weights`
    multiply_values(weights, slice, softmax.out[s]);
    __syncthreads();
  }
}

template <typename T, int kWidth, int kHeadSize>
__device__ void store_output(const BlockAttentionParams& params, int64_t b, int64_t head, int64_t first_query,
                             Softmax<kHeadSize>& softmax) {
#pragma unroll
  for (int i = 0; i < Tile<kHeadSize>::kRows; ++i) {
    const float sum = row_sum(softmax.sum[i]);
    const float factor = sum != 0.0f ? 1.0f / sum : 0.0f;
    const int64_t query = first_query + threadIdx.y + i * kSide;
    if (query >= params.queries) continue;
    T* out = static_cast<T*>(params.out) + ((b * params.queries + query) * params.heads + head) * params.head_size;
#pragma unroll
    for (int s = 0; s < Tile<kHeadSize>::kSlices; ++s) {
      const float4 o = softmax.out[s][i];
      const float lanes[4] = {o.x * factor, o.y * factor, o.z * factor, o.w * factor};
      const int64_t channel = s * kSlice + threadIdx.x * 4;
      if constexpr (kWidth > 1) {  // then rows are a multiple of four elements
        if (channel < params.head_size) Packed<T, 4>::pack(lanes).store(out + channel);
      } else {
#pragma unroll
        for (int lane = 0; lane < 4; ++lane) {
          if (channel + lane < params.head_size) from_float(lanes[lane], out + channel + lane);
        }
      }
    }
  }
}

template <typename T, int kWidth, int kHeadSize>
__global__ void __launch_bounds__(kAttentionThreads, Tile<kHeadSize>::kBlocksPerSm)
    block_attention_kernel(const BlockAttentionParams params, const WorkGrid grid) {
  using Shape = Tile<kHeadSize>;
  SIGE_DYNAMIC_SHARED(float, shared);
  float* queries = shared;                       // [kQueries, kQueryPitch]
  float* slice = queries + Shape::kQueryFloats;  // [kKeys, kSlicePitch]
  float* weights = slice + Shape::kSliceFloats;  // [kQueries, kScorePitch]
  __shared__ KeyRows<T> rows;
  Softmax<kHeadSize> softmax;

  // Tiles need no barrier between them: after its last barrier in `attend`, a thread uses only its registers.
  for (int64_t tile = blockIdx.x; tile < grid.tiles; tile += gridDim.x) {
    const int64_t first_query = tile % grid.query_tiles * Shape::kQueries;
    const int64_t head = tile / grid.query_tiles % params.heads;
    const int64_t b = tile / grid.query_tiles / params.heads;
    for (int s = 0; s < Shape::kSlices; ++s) {
      const auto query_row = [&](int row) {
        const int64_t query = first_query + row;
        const int64_t offset = ((b * params.queries + query) * params.heads + head) * params.head_size;
        return query < params.queries ? static_cast<const T*>(params.query) + offset + s * kSlice : nullptr;
      };
      load_slice<T, kWidth, Shape::kQueries, Shape::kQueryPitch>(query_row, params.head_size - s * kSlice,
                                                                 queries + s * kSlice);
    }
    softmax.reset();
    for (int64_t first_key = 0; first_key < params.keys; first_key += kKeys) {
      if (!block_is_seen(params, first_query / kAttentionBlock, first_key / kAttentionBlock)) continue;
      find_key_rows(params, b, head, first_key, rows);
      __syncthreads();  // `rows`, and at the first key tile `queries`
      attend<T, kWidth>(params, rows, queries, slice, weights, softmax);
    }
    store_output<T, kWidth>(params, b, head, first_query, softmax);
  }
}

// ---------------------------------------------------------------------------------------------------------------
// Launchers
// ---------------------------------------------------------------------------------------------------------------

template <typename T, int kWidth, int kHeadSize>
void launch_attention(const BlockAttentionParams& params, void* stream) {
  const int64_t query_tiles = ceil_div(params.queries, Tile<kHeadSize>::kQueries);
  const WorkGrid grid = {query_tiles, params.batch * params.heads * query_tiles};
  const LaunchShape shape = {grid.tiles, dim3(kSide, kSide), 1, Tile<kHeadSize>::kSharedBytes};
  launch("block_attention", block_attention_kernel<T, kWidth, kHeadSize>, shape, stream, params, grid);
}

// Heads whose size is not a multiple of 16 bytes are rare: one kernel that works for every size takes them all.
template <typename T>
void launch_attention(const BlockAttentionParams& params, bool vectorise, void* stream) {
  constexpr int kWidth = kVectorWidth<T>;
  if (!vectorise) return launch_attention<T, 1, kMaxHeadSize>(params, stream);
  if constexpr (sizeof(T) == sizeof(float)) {  // narrow heads of 16 bits run on tensor cores
    if (params.head_size <= 64) return launch_attention<T, kWidth, 64>(params, stream);
    if (params.head_size <= 128) return launch_attention<T, kWidth, 128>(params, stream);
  }
  if (params.head_size <= 256) return launch_attention<T, kWidth, 256>(params, stream);
  launch_attention<T, kWidth, kMaxHeadSize>(params, stream);
}

}  // namespace

int64_t attention_workspace(const BlockAttentionParams& params) {
  return takes_tensor_attention(params) ? tensor_attention_workspace(params) : 0;
}

void block_attention(const BlockAttentionParams& params, void* stream) {
  if (takes_tensor_attention(params)) return tensor_attention(params, stream);
  if (params.head_size > kMaxHeadSize) {
    throw std::runtime_error("sige: block_attention: head_size is " + std::to_string(params.head_size) +
                             ", the kernel takes at most " + std::to_string(kMaxHeadSize));
  }
  dispatch_dtype(params.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const bool vectorise = can_vectorise<T>(
        {params.query, params.out, params.key.packed, params.key.recorded, params.value.packed, params.value.recorded},
        {params.head_size});
    launch_attention<T>(params, vectorise, stream);
  });
}

}  // namespace sige::cuda
