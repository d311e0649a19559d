// Brings tiles of keys and values into shared memory, ahead of the warps that read them.
#pragma once

#include "common/tensor_attention_tile.cuh"

namespace sige::cuda {

// The keys, or the values, of one sample, from one channel on. What no entry changes is added up once.
template <typename T>
struct SampleRows {
  const T* packed;
  const T* recorded;

  __device__ SampleRows(const RowSource& rows, int64_t b, int64_t channel)
      : packed(static_cast<const T*>(rows.packed) + b * rows.packed_rows * rows.channels + channel),
        recorded(static_cast<const T*>(rows.recorded) + b * rows.recorded_rows * rows.channels + channel) {}

  // The row of an entry that is not negative, as RowSource numbers them. Unsigned, so that one instruction multiplies.
  __device__ const T* row(uint32_t entry, uint32_t packed_rows, uint32_t channels) const {
    const bool fresh = entry < packed_rows;
    return (fresh ? packed : recorded) + static_cast<uint64_t>(fresh ? entry : entry - packed_rows) * channels;
  }
};

// Copies the key tiles that a block of queries sees, one after the other. All threads call it together.
template <typename T, typename Shape>
class KeyPipe {
 public:
  __device__ KeyPipe(const BlockAttentionParams& params, const QueryBlock& block, int first_tile, int end_tile,
                     T* stages,                           // [kStages, 2, kTileKeys, kPitch]
                     uint64_t (*seen)[Shape::kRowTiles])  // [kStages], bit k: the row tile sees key k of the stage
      : params_(params),
        keys_(params.key, block.b, block.head * params.head_size + first_chunk() * kChunk),
        values_(params.value, block.b, block.head * params.head_size + first_chunk() * kChunk),
        tiles_(static_cast<int>(ceil_div(params.keys, kTileKeys))),
        end_(end_tile),
        stages_(stages),
        seen_(seen) {
    if (params.block_mask) mask_ = params.block_mask + block.first / kTileQueries * tiles_;
    find(first_tile);
  }

  // Starts the copies of the next tile into a stage. False when there is none.
  __device__ bool copy_next(int stage) {
    if (tile_ >= end_) return false;
    const uint64_t low = __ballot_sync(kWholeWarp, entries_[0] >= 0),
                   high = __ballot_sync(kWholeWarp, entries_[1] >= 0);
    if (threadIdx.x == 0) {
#pragma unroll
      for (int r = 0; r < Shape::kRowTiles; ++r) seen_[stage][r] = is_seen(r, tile_) ? high << 32 | low : 0;
    }
    const int first_row = static_cast<int>(threadIdx.x) / kRowThreads;
    T* to = keys_of(stage) + first_row * Shape::kPitch + first_chunk() * kChunk;
#pragma unroll
    for (int row = 0; row < kTileKeys; row += kPassRows) {
      const int32_t entry = __shfl_sync(kWholeWarp, entries_[row / 32], row % 32 + first_row);
      copy_row(keys_, entry, to + row * Shape::kPitch);
      copy_row(values_, entry, to + row * Shape::kPitch + Shape::kTileElements);
    }
    find(tile_ + 1);
    return true;
  }

  __device__ T* keys_of(int stage) const { return stages_ + stage * 2 * Shape::kTileElements; }
  __device__ T* values_of(int stage) const { return keys_of(stage) + Shape::kTileElements; }

 private:
  static constexpr int kRowThreads = Shape::kHeadSize % 64 == 0 ? 8 : 4;  // they copy one row together
  static constexpr int kPassRows = kTensorThreads / kRowThreads;

  __device__ static int first_chunk() { return static_cast<int>(threadIdx.x) % kRowThreads; }

  __device__ bool is_seen(int r, int tile) const { return !mask_ || mask_[static_cast<int64_t>(r) * tiles_ + tile]; }

  __device__ bool any_sees(int tile) const {
    bool any = false;
#pragma unroll
    for (int r = 0; r < Shape::kRowTiles; ++r) any |= is_seen(r, tile);
    return any;
  }

  // Looks from `tile` on for one that a query may see, and reads its entries: each warp holds all 64, two in a lane.
  __device__ void find(int tile) {
    while (tile < end_ && !any_sees(tile)) ++tile;
    tile_ = tile;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int slot = tile * kTileKeys + i * 32 + lane_id();
      entries_[i] = tile < end_ && slot < static_cast<int>(params_.keys) ? __ldg(params_.index + slot) : -1;
    }
  }

  // Copies this thread's chunks of one row; zeros for a hidden key and beyond the head.
  __device__ void copy_row(const SampleRows<T>& rows, int32_t entry, T* to) const {
    const T* from = rows.row(static_cast<uint32_t>(max(entry, 0)), static_cast<uint32_t>(params_.key.packed_rows),
                             static_cast<uint32_t>(params_.key.channels));
#pragma unroll
    for (int chunk = 0; chunk < Shape::kChunks; chunk += kRowThreads) {
      if (Shape::kChunks % kRowThreads != 0 && chunk + first_chunk() >= Shape::kChunks) break;
      const bool valid = entry >= 0 && (chunk + first_chunk()) * kChunk < params_.head_size;
      copy_async_16(to + chunk * kChunk, from + chunk * kChunk, valid);
    }
  }

  const BlockAttentionParams& params_;
  const SampleRows<T> keys_;
  const SampleRows<T> values_;
  const int tiles_;             // of all keys
  const int end_;               // of this split
  const bool* mask_ = nullptr;  // [kRowTiles, tiles_] from the block's first row tile on
  T* const stages_;
  uint64_t (*const seen_)[Shape::kRowTiles];
  int tile_;            // the next one to copy
  int32_t entries_[2];  // of that tile
};

}  // namespace sige::cuda
