// block_attention on the CPU: online softmax with as many queries in a vector as it has lanes.
//
// Queries lie along the lanes, so scores, maxima and sums are vertical operations. The kernel reads key and value rows
// in place, one broadcast element at a time: it transposes and copies no row (16-bit rows are widened once).
#include "block_attention.h"

#include "common/simd.h"

namespace sige::SIGE_CPU_VARIANT {

// A register tile has kTile x kQueryVecs sums: sixteen of AVX-512's 32 registers, eight of the 16 that others have.
#if defined(__AVX512F__)
constexpr int64_t kTile = 8;  // keys, or value columns, per register tile
#else
constexpr int64_t kTile = 4;
#endif
constexpr int64_t kQueryVecs = 2;                  // vectors of queries per tile
constexpr int64_t kQueries = kQueryVecs * kLanes;  // queries per tile; divides kAttentionBlock
constexpr int64_t kAloneSize = 1 << 19;            // multiply-accumulates up to which one thread is faster than two
constexpr float kLowest = -1e30f;                  // the maximum before the first score

static_assert(kAttentionBlock % kQueries == 0 && kAttentionBlock % kTile == 0);

// The visible keys of one block, with their values: rows in fp32.
struct KeyBlock {
  const float* keys[kAttentionBlock];    // each [D]
  const float* values[kAttentionBlock];  // each [D]
  int64_t count;
};

// The state of one tile of queries, which is updated by one key block after another.
struct QueryTile {
  QueryTile(int64_t size, bool widens)
      : query(size * kQueries), output(size * kQueries), widened(widens ? 2 * kAttentionBlock * size : 0) {
    for (int64_t v = 0; v < kQueryVecs; ++v) {
      highest[v] = broadcast(kLowest);
      sum[v] = broadcast(0.0f);
    }
  }

  Floats query;    // [D, kQueries], already multiplied by the scale
  Floats output;   // [D, kQueries], not yet divided by the sum
  Floats widened;  // [kAttentionBlock, 2, D]: 16-bit keys and values in fp32
  Vec highest[kQueryVecs];
  Vec sum[kQueryVecs];
};

static inline const float* widen(const float* row, float*, int64_t) { return row; }

template <typename T>
static inline const float* widen(const T* row, float* scratch, int64_t size) {
  for (int64_t d = 0; d < size; d += kLanes) store(scratch + d, load(row + d, size - d), size - d);
  return scratch;
}

template <typename T>
static void collect_keys(const BlockAttentionParams& params, int64_t b, int64_t head, int64_t key_block,
                         QueryTile& tile, KeyBlock& block) {
  const int64_t size = params.head_size;
  const int64_t first = key_block * kAttentionBlock;
  const int64_t last = first + kAttentionBlock < params.keys ? first + kAttentionBlock : params.keys;
  block.count = 0;
  for (int64_t slot = first; slot < last; ++slot) {
    const T* key = params.key.row<T>(b, params.index[slot]);
    if (!key) continue;
    const T* value = params.value.row<T>(b, params.index[slot]);
    float* scratch = tile.widened.data() + 2 * block.count * size;
    block.keys[block.count] = widen(key + head * size, scratch, size);
    block.values[block.count] = widen(value + head * size, scratch + size, size);
    ++block.count;
  }
}

// acc[j] += sum over i < count of left(i, j) * right[i]: kTile broadcasts against kQueryVecs vectors a step.
template <int64_t Width, typename Left>
static inline void multiply_tile(Vec (&acc)[Width][kQueryVecs], int64_t count, const Left& left,
                                 const float* right) {  // [count, kQueries]
  for (int64_t i = 0; i < count; ++i) {
    Vec lanes[kQueryVecs];
#pragma GCC unroll 8
    for (int64_t v = 0; v < kQueryVecs; ++v) lanes[v] = load(right + i * kQueries + v * kLanes);
#pragma GCC unroll 8
    for (int64_t j = 0; j < Width; ++j) {
      const Vec factor = broadcast(left(i, j));
#pragma GCC unroll 8
      for (int64_t v = 0; v < kQueryVecs; ++v) acc[j][v] += factor * lanes[v];
    }
  }
}

// scores[k] = key k . query, for the block's keys; rows past the count repeat the last key and are ignored.
static void score_keys(const KeyBlock& block, const QueryTile& tile, int64_t size,
                       Vec (*scores)[kQueryVecs]) {  // [kAttentionBlock]
  for (int64_t k = 0; k < block.count; k += kTile) {
    const float* rows[kTile];
    for (int64_t j = 0; j < kTile; ++j) rows[j] = block.keys[k + j < block.count ? k + j : block.count - 1];
    Vec acc[kTile][kQueryVecs] = {};
    multiply_tile<kTile>(acc, size, [&](int64_t d, int64_t j) { return rows[j][d]; }, tile.query.data());
    memcpy(scores + k, acc, sizeof acc);
  }
}

// Turns scores into weights exp(score - highest) and returns the factor that older weights shrink by.
static void weigh_keys(int64_t count, QueryTile& tile, Vec (*scores)[kQueryVecs], Vec (&shrink)[kQueryVecs]) {
  for (int64_t v = 0; v < kQueryVecs; ++v) {
    Vec highest = tile.highest[v];
    for (int64_t k = 0; k < count; ++k) highest = maximum(highest, scores[k][v]);
    shrink[v] = exponential(tile.highest[v] - highest);
    Vec sum = tile.sum[v] * shrink[v];
    for (int64_t k = 0; k < count; ++k) {
      scores[k][v] = exponential(scores[k][v] - highest);
      sum += scores[k][v];
    }
    tile.highest[v] = highest;
    tile.sum[v] = sum;
  }
}

// output[d .. d + Width] = output * shrink + sum over keys of weight * value.
template <int64_t Width>
static void add_values(const KeyBlock& block, const Vec (*weights)[kQueryVecs], const Vec (&shrink)[kQueryVecs],
                       int64_t d, float* output) {  // [Width, kQueries]
  Vec acc[Width][kQueryVecs];
#pragma GCC unroll 8
  for (int64_t j = 0; j < Width; ++j)
    for (int64_t v = 0; v < kQueryVecs; ++v) acc[j][v] = load(output + j * kQueries + v * kLanes) * shrink[v];
  multiply_tile<Width>(
      acc, block.count, [&](int64_t k, int64_t j) { return block.values[k][d + j]; },
      reinterpret_cast<const float*>(weights));
#pragma GCC unroll 8
  for (int64_t j = 0; j < Width; ++j)
    for (int64_t v = 0; v < kQueryVecs; ++v) store(output + j * kQueries + v * kLanes, acc[j][v]);
}

static void attend_block(const KeyBlock& block, QueryTile& tile, int64_t size) {
  Vec scores[kAttentionBlock][kQueryVecs];
  Vec shrink[kQueryVecs];
  score_keys(block, tile, size, scores);
  weigh_keys(block.count, tile, scores, shrink);
  int64_t d = 0;
  for (; d + kTile <= size; d += kTile) add_values<kTile>(block, scores, shrink, d, tile.output.data() + d * kQueries);
  for (; d < size; ++d) add_values<1>(block, scores, shrink, d, tile.output.data() + d * kQueries);
}

template <typename T>
static void load_queries(const BlockAttentionParams& params,
                         const T* rows,  // [count, Hd, D] from this head on
                         int64_t count, QueryTile& tile) {
  const int64_t size = params.head_size;
  const int64_t stride = params.heads * size;
  for (int64_t q = 0; q < count; ++q) {
    for (int64_t d = 0; d < size; d += kLanes) {
      const Vec lanes = load(rows + q * stride + d, size - d) * params.scale;
      for (int64_t lane = 0; lane < kLanes && d + lane < size; ++lane)
        tile.query.data()[(d + lane) * kQueries + q] = lanes[lane];
    }
  }
}

template <typename T>
static void store_outputs(const BlockAttentionParams& params, const QueryTile& tile, int64_t count,
                          T* rows) {  // [count, Hd, D] from this head on
  const int64_t size = params.head_size;
  const int64_t stride = params.heads * size;
  for (int64_t q = 0; q < count; ++q) {
    const float sum = tile.sum[q / kLanes][q % kLanes];
    const float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;
    for (int64_t d = 0; d < size; d += kLanes) {
      Vec lanes = {};
      for (int64_t lane = 0; lane < kLanes && d + lane < size; ++lane)
        lanes[lane] = tile.output.data()[(d + lane) * kQueries + q] * inverse;
      store(rows + q * stride + d, lanes, size - d);
    }
  }
}

template <typename T>
static void attend_tile(const BlockAttentionParams& params, int64_t b, int64_t head, int64_t first_query) {
  const int64_t size = params.head_size;
  const int64_t count = first_query + kQueries < params.queries ? kQueries : params.queries - first_query;
  const int64_t offset = ((b * params.queries + first_query) * params.heads + head) * size;
  QueryTile tile(size, sizeof(T) < sizeof(float));
  load_queries(params, static_cast<const T*>(params.query) + offset, count, tile);
  KeyBlock block;
  for (int64_t key_block = 0; key_block < ceil_div(params.keys, kAttentionBlock); ++key_block) {
    if (!block_is_seen(params, first_query / kAttentionBlock, key_block)) continue;
    collect_keys<T>(params, b, head, key_block, tile, block);
    if (block.count) attend_block(block, tile, size);
  }
  store_outputs(params, tile, count, static_cast<T*>(params.out) + offset);
}

void block_attention(const BlockAttentionParams& params) {
  const int64_t tiles = ceil_div(params.queries, kQueries);
  const int64_t work = params.batch * params.heads * params.queries * params.keys * params.head_size;
  dispatch(params.dtype, [&](auto tag) {
#pragma omp parallel for schedule(dynamic) if (work > kAloneSize)
    for (int64_t item = 0; item < params.batch * params.heads * tiles; ++item) {
      const int64_t b = item / (params.heads * tiles);
      attend_tile<decltype(tag)>(params, b, item / tiles % params.heads, item % tiles * kQueries);
    }
  });
}

}  // namespace sige::SIGE_CPU_VARIANT
