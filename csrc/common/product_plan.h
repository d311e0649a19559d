// Chooses how row_product.cu cuts a product into blocks, from its sizes and the number of multiprocessors alone: the
// same product is always summed in the same order. All figures here are estimates, none is measured.
#pragma once

#include "common/types.h"

namespace sige {

// The tile of a block, [rows, columns] of the output, and the columns of K in one stage of its pipeline.
enum class ProductTileSize : int32_t { k128x128, k64x128, k64x64 };

struct ProductTileFacts {
  ProductTileSize size;
  int32_t rows, columns, depth;
  double rate;  // multiply-accumulates of one multiprocessor per clock
};

// mma.sync reaches about 62 % of an H200's tensor cores, 1270 multiply-accumulates per clock, and a pipeline about 80 %
// of that. Small tiles read shared memory more often for each product, 128 bytes per clock at most: 0.9 of the clocks
// of the products for 128 x 128, 1.4 for 64 x 128, 1.9 for 64 x 64.
constexpr ProductTileFacts kProductTiles[] = {
    {ProductTileSize::k128x128, 128, 128, 32, 1000.0},
    {ProductTileSize::k64x128, 64, 128, 64, 750.0},
    {ProductTileSize::k64x64, 64, 64, 64, 550.0},
};

constexpr int64_t kMostSplits = 16;
constexpr int64_t kFewestSteps = 4;         // of a split: fewer do not fill the pipeline
constexpr int64_t kMostPartials = 1 << 24;  // floats: 64 MB, about what an L2 cache holds
constexpr int64_t kMostSplitTiles = 2048;   // each needs a counter of common/last_block.cuh

struct ProductPlan {
  ProductTileSize tile;
  int32_t splits;  // of K; with more than one, the blocks write partial sums and the last one of a tile adds them
  int32_t steps;   // stages of K in one split; only the last one may have fewer
  double clocks;   // the estimated time
};

// The estimated clocks of a plan: multiprocessors work through their blocks; then those with the last block of a tile
// read the tile's partial sums. The tiles of several layers lie side by side, and no tile belongs to two of them.
inline double product_clocks(const ProductTileFacts& tile, int64_t tiles, int64_t steps, int64_t splits,
                             int64_t multiprocessors) {
  constexpr double kBlock = 1500.0;  // the first loads of a block and its store
  constexpr double kAlone = 1.25;    // a block alone on its multiprocessor waits for memory more often
  constexpr double kLast = 1000.0;   // a block's fence, the count, and the wait for the first partial sums
  constexpr double kWritten = 24.0;  // bytes of partial sums per clock and multiprocessor, when all write
  constexpr double kRead = 48.0;     // and when few read: a block has 32 KB on their way, some 600 clocks long
  const int64_t rounds = ceil_div(tiles * splits, multiprocessors);
  const double work = static_cast<double>(steps) * tile.depth * tile.rows * tile.columns / tile.rate;
  const double products = static_cast<double>(rounds) * (work + kBlock) * (rounds == 1 ? kAlone : 1.0);
  if (splits == 1) return products;
  const double tile_bytes = 4.0 * tile.rows * tile.columns;
  const auto last_blocks = static_cast<double>(ceil_div(tiles, multiprocessors) * splits);  // and their partial sums
  return products + kLast + tile_bytes * (static_cast<double>(rounds) / kWritten + last_blocks / kRead);
}

// The plan of least estimated time for [rows, depth] times [depth, columns], by each of the layers. Several layers fill
// more of the device, so they may have fewer splits than one alone: then the bits differ, within the rounding.
inline ProductPlan plan_product(int64_t rows, int64_t columns, int64_t depth, int64_t multiprocessors, int64_t layers) {
  ProductPlan best = {};
  for (const ProductTileFacts& tile : kProductTiles) {
    const int64_t steps = ceil_div(depth, tile.depth);
    const int64_t tiles = ceil_div(rows, tile.rows) * ceil_div(columns, tile.columns) * layers;
    for (int64_t wanted = 1; wanted <= kMostSplits; ++wanted) {
      const int64_t in_split = ceil_div(steps, wanted), splits = ceil_div(steps, in_split);
      if (wanted > 1 && (in_split < kFewestSteps || tiles > kMostSplitTiles)) break;
      if (wanted > 1 && splits * rows * columns * layers > kMostPartials) break;
      const double clocks = product_clocks(tile, tiles, in_split, splits, multiprocessors);
      if (best.splits && clocks >= best.clocks) continue;
      best = {tile.size, static_cast<int32_t>(splits), static_cast<int32_t>(in_split), clocks};
    }
  }
  return best;
}

}  // namespace sige
