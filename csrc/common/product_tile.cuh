// The parts of row_product.cu that work on one tile: copies into shared memory, products of a warp, the store.
#pragma once

#include "common/launch.cuh"
#include "common/tensor_core.cuh"
#include "row_product.h"

namespace sige::cuda {

constexpr int kProductThreads = 128;  // four warps, two by two on the tile
constexpr int kProductVector = 8;     // elements in 16 bytes

template <int kRows_, int kColumns_, int kDepth_, int kStages_, int kBlocksPerSm_>
struct ProductTile {
  static constexpr int kRows = kRows_;
  static constexpr int kColumns = kColumns_;
  static constexpr int kDepth = kDepth_;    // columns of K in a stage
  static constexpr int kStages = kStages_;  // of the pipeline
  static constexpr int kBlocksPerSm = kBlocksPerSm_;
  static constexpr int kWarpRows = kRows / 2;
  static constexpr int kWarpColumns = kColumns / 2;
  static constexpr int kVectors = kDepth / kProductVector;            // of a row in a stage
  static constexpr int kPassRows = kProductThreads / kVectors;        // rows that the block copies at a time
  static constexpr int kStageElements = (kRows + kColumns) * kDepth;  // rows of A, then rows of the weight
  static constexpr int kStagingPitch = kWarpColumns + 8;              // floats: the writes are free of bank conflicts
  static constexpr size_t kPipelineBytes = size_t{2} * kStages * kStageElements;
  static_assert(sizeof(float) * 4 * 16 * kStagingPitch <= kPipelineBytes, "the store reuses the pipeline's memory");

  // The pipeline, and a pointer to the piece of each row and tap.
  static constexpr size_t shared_bytes(int64_t taps) {
    return kPipelineBytes + sizeof(void*) * kRows * static_cast<size_t>(taps);
  }
  static_assert(shared_bytes(kMostProductTaps) <= 99 * 1024, "the largest block of sm_86 and sm_89");
};

// Where a vector of a row lies in a tile, in elements. Vectors change places so that the eight rows that ldmatrix reads
// together, at one vector, lie in different banks.
template <int kDepth>
__device__ inline int swizzled(int row, int vector) {
  static_assert(kDepth == 32 || kDepth == 64, "a row has 64 or 128 bytes");
  const int turn = kDepth == 64 ? row % 8 : row / 2 % 4;
  return row * kDepth + (vector ^ turn) * kProductVector;
}

// Copies one stage after another. A thread always copies the same vector of the same rows, so it knows its tap and its
// channel without a division.
template <typename Tile, typename T>
class StageCopier {
 public:
  // `pieces` [T, Tile::kRows] is in shared memory; the stages begin at column `begin` of K and end at `end`.
  __device__ StageCopier(const MappedProductParams& params, const T* const* pieces, int64_t first_column, int begin,
                         int end)
      : pieces_(pieces), channels_(static_cast<int>(params.source.channels)), end_(end) {
    const int64_t size = params.taps * params.source.channels;
    k_ = begin + vector() * kProductVector;
    tap_ = k_ / channels_;
    channel_ = k_ % channels_;
    weight_ = static_cast<const T*>(params.weights[0]) + (first_column + row()) * size + k_;
    pass_stride_ = Tile::kPassRows * size;
    columns_ = static_cast<int>(min(params.columns - first_column, int64_t{Tile::kColumns}));
  }

  __device__ void copy(T* stage) {  // [Tile::kRows + Tile::kColumns, Tile::kDepth], swizzled
    const bool inside = k_ < end_;
#pragma unroll
    for (int first = 0; first < Tile::kRows; first += Tile::kPassRows) {
      const T* piece = inside ? pieces_[tap_ * Tile::kRows + first + row()] : nullptr;
      copy_async_16(stage + swizzled<Tile::kDepth>(first + row(), vector()), piece ? piece + channel_ : nullptr,
                    piece != nullptr);
    }
    T* right = stage + Tile::kRows * Tile::kDepth;
    const T* weight = weight_;
#pragma unroll
    for (int first = 0; first < Tile::kColumns; first += Tile::kPassRows) {
      const bool valid = inside && first + row() < columns_;
      copy_async_16(right + swizzled<Tile::kDepth>(first + row(), vector()), valid ? weight : nullptr, valid);
      weight += pass_stride_;
    }
    advance();
  }

 private:
  __device__ static int row() { return static_cast<int>(threadIdx.x) / Tile::kVectors; }
  __device__ static int vector() { return static_cast<int>(threadIdx.x) % Tile::kVectors; }

  __device__ void advance() {
    k_ += Tile::kDepth;
    channel_ += Tile::kDepth;
    weight_ += Tile::kDepth;
    while (channel_ >= channels_) {
      channel_ -= channels_;
      ++tap_;
    }
  }

  const T* const* pieces_;
  const T* weight_;  // of this thread's first weight row
  int64_t pass_stride_;
  int channels_, columns_, end_;
  int k_, tap_, channel_;
};

// The products of one warp: the sums of its part of the tile.
template <typename Tile, typename T>
struct WarpProduct {
  static constexpr int kRowTiles = Tile::kWarpRows / 16;
  static constexpr int kColumnPairs = Tile::kWarpColumns / 16;

  FragmentC sums[kRowTiles][2 * kColumnPairs];

  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  __device__ static int first_row() { return static_cast<int>(threadIdx.x) / 64 * Tile::kWarpRows; }
  __device__ static int first_column() { return static_cast<int>(threadIdx.x) / 32 % 2 * Tile::kWarpColumns; }

  struct Operands {  // 16 columns of K
    FragmentA<T> left[kRowTiles];
    uint32_t right[kColumnPairs][4];  // two fragments of B

    __device__ void load(const T* stage, int k) {
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) {
        const int row = first_row() + i * 16 + lane() % 16;
        load_matrix_x4(left[i].regs, stage + swizzled<Tile::kDepth>(row, k / kProductVector + lane() / 16));
      }
      const T* weights = stage + Tile::kRows * Tile::kDepth;
#pragma unroll
      for (int j = 0; j < kColumnPairs; ++j) {
        const int row = first_column() + j * 16 + lane() % 8 + lane() / 16 * 8;
        load_matrix_x4(right[j], weights + swizzled<Tile::kDepth>(row, k / kProductVector + lane() / 8 % 2));
      }
    }
  };

  // Adds the product of one stage. The next operands are on their way while the tensor cores work on these.
  __device__ void add_stage(const T* stage) {
    Operands operands[2];
    operands[0].load(stage, 0);
#pragma unroll
    for (int k = 0; k < Tile::kDepth; k += 16) {
      if (k + 16 < Tile::kDepth) operands[(k / 16 + 1) % 2].load(stage, k + 16);
      add(operands[k / 16 % 2]);
    }
  }

 private:
  __device__ void add(const Operands& operands) {
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
      for (int j = 0; j < 2 * kColumnPairs; ++j) {
        const uint32_t* right = operands.right[j / 2] + j % 2 * 2;
        mma(sums[i][j], operands.left[i], FragmentB<T>{{right[0], right[1]}});
      }
    }
  }
};

// out[row, column .. column + 8] = sums + bias + residual, added in fp32 and rounded once.
template <typename T>
__device__ void store_output(const MappedProductParams& params, int64_t row, int64_t column,
                             float (&sums)[kProductVector]) {
  using Vector = Packed<T, kProductVector>;
  float lanes[kProductVector];
  if (params.biases[0]) {
    const auto flat = static_cast<uint32_t>(params.first_row + row);  // 32 bits divide in a fifth of the instructions
    const int64_t sample = params.bias_stride ? flat / static_cast<uint32_t>(params.sample_rows) : 0;
    Vector::load(static_cast<const T*>(params.biases[0]) + sample * params.bias_stride + column).unpack(lanes);
#pragma unroll
    for (int lane = 0; lane < kProductVector; ++lane) sums[lane] += lanes[lane];
  }
  const int64_t offset = row * params.columns + column;
  if (params.residual) {
    Vector::load(static_cast<const T*>(params.residual) + offset).unpack(lanes);
#pragma unroll
    for (int lane = 0; lane < kProductVector; ++lane) sums[lane] += lanes[lane];
  }
  Vector::pack(sums).store(static_cast<T*>(params.out) + offset);
}

// Stores a warp's sums, 16 rows at a time: through shared memory, so that a lane has eight neighbours of a row.
template <typename Tile, typename T, typename Store>
__device__ void store_sums(const WarpProduct<Tile, T>& product, float* shared, Store store) {
  using Warp = WarpProduct<Tile, T>;
  constexpr int kVectors = Tile::kWarpColumns / kProductVector;  // of a row
  const int lane = Warp::lane();
  float* staging = shared + static_cast<int>(threadIdx.x) / 32 * 16 * Tile::kStagingPitch;
#pragma unroll
  for (int i = 0; i < Warp::kRowTiles; ++i) {
#pragma unroll
    for (int j = 0; j < 2 * Warp::kColumnPairs; ++j) {
      float* to = staging + lane / 4 * Tile::kStagingPitch + j * 8 + lane % 4 * 2;
      const float (&sums)[4] = product.sums[i][j].sums;
      *reinterpret_cast<float2*>(to) = make_float2(sums[0], sums[1]);
      *reinterpret_cast<float2*>(to + 8 * Tile::kStagingPitch) = make_float2(sums[2], sums[3]);
    }
    __syncwarp();
#pragma unroll
    for (int vector = lane; vector < 16 * kVectors; vector += 32) {
      const int row = vector / kVectors, column = vector % kVectors * kProductVector;
      float lanes[kProductVector];
      memcpy(lanes, staging + row * Tile::kStagingPitch + column, sizeof(lanes));
      store(Warp::first_row() + i * 16 + row, Warp::first_column() + column, lanes);
    }
    __syncwarp();  // the next rows overwrite the staging
  }
}

}  // namespace sige::cuda
