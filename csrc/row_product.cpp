// row_product on the CPU: dot products with the lanes along K, so that weights are read in place.
//
// A block of A (some rows, up to kDepth of K) is copied into one buffer and stays in the L2 cache. The kernel
// multiplies it with four weight rows at a time and prefetches the next four: with few rows of A, reading the weights
// takes most of the time. The threads share the columns of a block in chunks: each takes the next one when it is done.
#include "row_product.h"

#include <omp.h>

#include <type_traits>

#include "common/simd.h"

namespace sige::SIGE_CPU_VARIANT {

#if defined(__AVX512F__)
constexpr int64_t kWidth = 16;    // floats per register
constexpr int64_t kTileRows = 6;  // rows of A per register tile
constexpr int64_t kDepth = 2880;  // floats of K per block, at most
#else
constexpr int64_t kWidth = 8;
constexpr int64_t kTileRows = 3;
constexpr int64_t kDepth = 960;
#endif
constexpr int64_t kTileColumns = 4;        // weight rows per register tile
constexpr int64_t kBlockSize = 60 * 2880;  // floats per block of A
constexpr int64_t kPieceUnit = 16;         // divides the size of a piece, and so of K
constexpr int64_t kPadding = 16;           // floats between the rows of a block, against cache set conflicts
constexpr int64_t kAloneSize = 1 << 20;    // multiply-accumulates up to which waking threads costs more than it saves
constexpr int64_t kMostChunks = 8;         // of a block's columns for each thread: one whose core is busy takes fewer
constexpr int64_t kLeastChunk = 40;        // columns; the first four of a chunk are not prefetched

typedef float Wide __attribute__((vector_size(4 * kWidth)));
typedef float Quad __attribute__((vector_size(16)));

template <typename Register>
static inline Register load_as(const float* source) {
  Register value;
  memcpy(&value, source, sizeof value);
  return value;
}

template <typename Register>
static inline Quad fold(Register v) {
  if constexpr (sizeof(v) == 64)
    return fold(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15));
  else
    return __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
}

static inline Quad add_pairs(Quad a, Quad b) {
  return __builtin_shufflevector(a, b, 0, 2, 4, 6) + __builtin_shufflevector(a, b, 1, 3, 5, 7);
}

// The columns of K that one block of A holds.
struct Slice {
  int64_t first, depth;
};

// out = start + block weight^T for Rows rows; Ahead weight rows at `next` are prefetched on the way.
template <int64_t Ahead, int64_t Rows>
static void multiply_tile(int64_t depth, int64_t size, int64_t columns,
                          const float* block,                        // [Rows, depth + kPadding]
                          const float* weight,                       // [4, K], from the slice on
                          const float* next,                         // [Ahead, K], from the slice on
                          const float* start, int64_t start_stride,  // [Rows, 4], or null
                          float* out) {                              // [Rows, 4] of [Rows, N]
  Wide acc[Rows][kTileColumns] = {};
  for (int64_t k = 0; k < depth; k += kWidth) {
#pragma GCC unroll 8
    for (int64_t j = 0; j < Ahead; ++j) __builtin_prefetch(next + j * size + k, 0, 2);
    Wide weights[kTileColumns];
#pragma GCC unroll 8
    for (int64_t j = 0; j < kTileColumns; ++j) weights[j] = load_as<Wide>(weight + j * size + k);
#pragma GCC unroll 8
    for (int64_t i = 0; i < Rows; ++i) {
      const Wide lanes = load_as<Wide>(block + i * (depth + kPadding) + k);
#pragma GCC unroll 8
      for (int64_t j = 0; j < kTileColumns; ++j) acc[i][j] += lanes * weights[j];
    }
  }
#pragma GCC unroll 8
  for (int64_t i = 0; i < Rows; ++i) {
    Quad sums = add_pairs(add_pairs(fold(acc[i][0]), fold(acc[i][1])), add_pairs(fold(acc[i][2]), fold(acc[i][3])));
    if (start) sums += load_as<Quad>(start + i * start_stride);
    memcpy(out + i * columns, &sums, sizeof sums);
  }
}

// The tile with min(rows, Rows) rows.
template <int64_t Ahead, int64_t Rows = kTileRows, typename... Arguments>
static inline void multiply_rows(int64_t rows, Arguments... arguments) {
  if constexpr (Rows > 1) {
    if (rows < Rows) return multiply_rows<Ahead, Rows - 1>(rows, arguments...);
  }
  multiply_tile<Ahead, Rows>(arguments...);
}

// block = A[row .. row + rows, slice]
static void copy_block(const RowProductParams& params, int64_t row, int64_t rows, Slice slice,
                       float* block) {  // [rows, depth + kPadding]
  for (int64_t i = 0; i < rows; ++i, block += slice.depth + kPadding) {
    const float* const* pieces = params.pieces + (row + i) * params.pieces_per_row;
    for (int64_t k = 0, count; k < slice.depth; k += count) {
      const float* piece = pieces[(slice.first + k) / params.piece_size];
      const int64_t offset = (slice.first + k) % params.piece_size;
      count = params.piece_size - offset < slice.depth - k ? params.piece_size - offset : slice.depth - k;
      piece ? memcpy(block + k, piece + offset, count * sizeof(float)) : memset(block + k, 0, count * sizeof(float));
    }
  }
}

// out[row .. row + rows, begin .. end] (+)= block weight^T
static void multiply_block(const RowProductParams& params, int64_t row, int64_t rows, Slice slice, int64_t begin,
                           int64_t end, const float* block) {  // [rows, depth + kPadding]
  const int64_t size = params.pieces_per_row * params.piece_size, columns = params.columns;
  const bool adds = params.accumulate || slice.first > 0;  // the product is added to `out`, not to the bias
  for (int64_t n = begin; n < end; n += kTileColumns) {
    const float* weight = params.weight + n * size + slice.first;
    const float* next = weight + (n + kTileColumns < end ? kTileColumns * size : 0);
    for (int64_t i = 0; i < rows; i += kTileRows) {
      float* out = params.out + (row + i) * columns + n;
      const float* bias = params.bias ? params.bias + n : nullptr;
      const auto multiply = [&](auto ahead, const float* rows_ahead) {
        multiply_rows<decltype(ahead)::value>(rows - i, slice.depth, size, columns,
                                              block + i * (slice.depth + kPadding), weight, rows_ahead,
                                              adds ? out : bias, adds ? columns : 0, out);
      };
      if (i < 2 * kTileRows)  // the first two tiles prefetch two weight rows each
        multiply(std::integral_constant<int64_t, 2>{}, next + i / kTileRows * 2 * size);
      else
        multiply(std::integral_constant<int64_t, 0>{}, nullptr);
    }
  }
}

// The chunks that `threads` threads share: as many for each, if none is slow.
static int64_t count_chunks(int64_t columns, int64_t threads) {
  if (threads == 1) return 1;
  const int64_t each = columns / (threads * kLeastChunk);
  const int64_t chunks = threads * (each < 1 ? 1 : each < kMostChunks ? each : kMostChunks);
  return chunks < columns / kTileColumns ? chunks : columns / kTileColumns;
}

void row_product(const RowProductParams& params) {
  const int64_t size = params.pieces_per_row * params.piece_size;
  const int64_t depth = ceil_div(ceil_div(size, ceil_div(size, kDepth)), kPieceUnit) * kPieceUnit;
  const int64_t most = kBlockSize / depth / kTileRows * kTileRows;
#pragma omp parallel if (params.rows * params.columns * size > kAloneSize)
  {
    const int64_t quads = params.columns / kTileColumns;
    const int64_t chunks = count_chunks(params.columns, omp_get_num_threads());
    const Floats block((most < params.rows ? most : params.rows) * (depth + kPadding));
    for (int64_t first = 0; first < size; first += depth) {
      const Slice slice = {first, depth < size - first ? depth : size - first};
      if (first > 0) {  // another thread may have begun the sums that this slice is added to
#pragma omp barrier
      }
      for (int64_t row = 0; row < params.rows; row += most) {
        const int64_t rows = most < params.rows - row ? most : params.rows - row;
        bool copied = false;
#pragma omp for schedule(dynamic) nowait
        for (int64_t chunk = 0; chunk < chunks; ++chunk) {
          if (!copied) copy_block(params, row, rows, slice, block.data());
          copied = true;
          const int64_t begin = quads * chunk / chunks, end = quads * (chunk + 1) / chunks;
          multiply_block(params, row, rows, slice, begin * kTileColumns, end * kTileColumns, block.data());
        }
      }
    }
  }
}

}  // namespace sige::SIGE_CPU_VARIANT
