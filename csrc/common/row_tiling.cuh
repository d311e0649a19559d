// The tiling of kernels that work on whole rows: gather, scatter, fill_rows, blend_rows. Threads lie along the
// channels: neighbouring threads read neighbouring memory, and values that depend on the channel alone stay in
// registers. Index arithmetic with its divisions depends on the row alone: it is done once per row and shared.
#pragma once

#include "common/launch.cuh"

namespace sige::cuda {

constexpr int kRowThreads = 256;         // threads of a block, at most
constexpr int kMaxRowsPerBlock = 256;    // size of the per-row tables in shared memory
constexpr int kRowVectorsPerThread = 8;  // vectors of a thread in a large tensor: they share the cost of the table
constexpr int kRowMinBlocks = 264;       // two blocks for each of the 132 multiprocessors of an H100 or H200

struct RowTiling {
  int64_t rows;
  int64_t vectors;         // per row
  int64_t blocks;          // ceil(rows / rows_per_block)
  int64_t column_blocks;   // blocks side by side on one row, for rows longer than a block
  int32_t rows_per_block;  // at most kMaxRowsPerBlock
  dim3 threads;            // x along the vectors of a row, y along the rows

  LaunchShape shape() const { return {blocks, threads, column_blocks}; }
};

inline RowTiling tile_rows(int64_t rows, int64_t vectors) {
  RowTiling tiling = {};
  tiling.rows = rows;
  tiling.vectors = vectors;
  if (rows <= 0 || vectors <= 0) return tiling;
  tiling.column_blocks = ceil_div(vectors, kRowThreads);
  const int64_t wide = ceil_div(vectors, tiling.column_blocks);
  const int64_t tall = kRowThreads / wide;
  tiling.threads = dim3(static_cast<unsigned>(wide), static_cast<unsigned>(tall));

  int64_t rows_per_block = std::min<int64_t>(tall * kRowVectorsPerThread, kMaxRowsPerBlock);
  while (rows_per_block > tall && ceil_div(rows, rows_per_block) * tiling.column_blocks < kRowMinBlocks) {
    rows_per_block = std::max(rows_per_block / 2, tall);
  }
  tiling.rows_per_block = static_cast<int32_t>(rows_per_block);
  tiling.blocks = ceil_div(rows, rows_per_block);
  return tiling;
}

}  // namespace sige::cuda
