#include "common/fast_divisor.h"
#include "common/row_tiling.cuh"
#include "gather.h"

namespace sige::cuda {
namespace {

// ---------------------------------------------------------------------------------------------------------------
// Kernels
// ---------------------------------------------------------------------------------------------------------------

constexpr int kLoadsInFlight = 4;  // vectors that a thread has loaded before it stores the first

// Scale and shift of a thread's channels, kept in registers and reloaded only where the rows change sample.
template <int kWidth>
struct Affine {
  int64_t batch = -1;
  float scale[kWidth] = {};
  float shift[kWidth] = {};

  __device__ void load(const GatherParams& params, int64_t b, int64_t channel) {
    if (b == batch) return;
    batch = b;
    const int64_t first = b * params.source.channels + channel;
    load(params.scale + first, scale);
    load(params.shift + first, shift);
  }

 private:
  __device__ static void load(const float* from, float (&to)[kWidth]) {
    constexpr int kStep = kWidth < kVectorWidth<float> ? kWidth : kVectorWidth<float>;
#pragma unroll
    for (int start = 0; start < kWidth; start += kStep) {
      float lanes[kStep];
      Packed<float, kStep>::load(from + start).unpack(lanes);
#pragma unroll
      for (int lane = 0; lane < kStep; ++lane) to[start + lane] = lanes[lane];
    }
  }
};

template <Activation kActivation>
__device__ float activate(float x) {
  // __fdividef has an error of two ulp at most, and is so short that the kernel stays memory-bound.
  if constexpr (kActivation == Activation::kSiLU) return __fdividef(x, 1.0f + expf(-x));
  return x;
}

template <typename T, int kWidth, bool kAffine, Activation kActivation>
__device__ Packed<T, kWidth> transform(const Packed<T, kWidth>& in, const Affine<kWidth>& affine) {
  if constexpr (!kAffine && kActivation == Activation::kNone) return in;
  float lanes[kWidth];
  in.unpack(lanes);
#pragma unroll
  for (int lane = 0; lane < kWidth; ++lane) {
    const float x = kAffine ? lanes[lane] * affine.scale[lane] + affine.shift[lane] : lanes[lane];
    lanes[lane] = activate<kActivation>(x);
  }
  return Packed<T, kWidth>::pack(lanes);
}

// One row of a block: an (output row, tap) pair. All of its channels come from the same source row.
template <typename T>
struct SourceRow {
  const T* row;  // [C] or null for a zero row
  int64_t batch;
};

template <typename T, int kWidth, bool kAffine, Activation kActivation>
__device__ void copy_rows(const GatherParams& params, const SourceRow<T>* sources, int32_t count, int64_t channel,
                          T* out) {  // out [count, C]
  using Vector = Packed<T, kWidth>;
  const int32_t step = blockDim.y;
  Affine<kWidth> affine;
  for (int32_t first = threadIdx.y; first < count; first += kLoadsInFlight * step) {
    Vector vectors[kLoadsInFlight];
#pragma unroll
    for (int load = 0; load < kLoadsInFlight; ++load) {
      const int32_t item = first + load * step;
      const T* row = item < count ? sources[item].row : nullptr;
      vectors[load] = row ? Vector::load(row + channel) : Vector::zero();
    }
#pragma unroll
    for (int load = 0; load < kLoadsInFlight; ++load) {
      const int32_t item = first + load * step;
      if (item >= count) break;
      if (sources[item].row) {
        if constexpr (kAffine) affine.load(params, sources[item].batch, channel);
        vectors[load] = transform<T, kWidth, kAffine, kActivation>(vectors[load], affine);
      }
      vectors[load].store(out + item * params.source.channels + channel);
    }
  }
}

struct GatherDivisors {
  FastDivisor taps, out_rows;
};

template <typename T, int kWidth, bool kAffine, Activation kActivation>
__global__ void __launch_bounds__(kRowThreads)
    gather_kernel(const GatherParams params, const RowTiling tiling, const GatherDivisors divisors) {
  __shared__ SourceRow<T> sources[kMaxRowsPerBlock];
  const int32_t thread = threadIdx.y * blockDim.x + threadIdx.x;
  const int64_t vector = static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x;

  for (int64_t block = blockIdx.x; block < tiling.blocks; block += gridDim.x) {
    const int64_t first = block * tiling.rows_per_block;
    const int64_t left = tiling.rows - first;
    const int32_t count = static_cast<int32_t>(left < tiling.rows_per_block ? left : tiling.rows_per_block);
    for (int32_t i = thread; i < count; i += blockDim.x * blockDim.y) {
      const GatherRow at = gather_row(params, (first + i) / divisors.taps, divisors.out_rows);
      const int32_t entry = gather_entry(params, at.first_slot + (first + i) % divisors.taps);
      sources[i] = {params.source.row<T>(at.batch, entry), at.batch};
    }
    __syncthreads();
    if (vector < tiling.vectors) {
      copy_rows<T, kWidth, kAffine, kActivation>(params, sources, count, vector * kWidth,
                                                 static_cast<T*>(params.out) + first * params.source.channels);
    }
    __syncthreads();  // the next rows overwrite `sources`
  }
}

// ---------------------------------------------------------------------------------------------------------------
// Launchers
// ---------------------------------------------------------------------------------------------------------------

template <typename T, int kWidth, bool kAffine>
void launch_gather(const GatherParams& params, void* stream) {
  const RowTiling tiling = tile_rows(params.row_count * params.taps, params.source.channels / kWidth);
  const auto kernel = params.activation == Activation::kSiLU ? gather_kernel<T, kWidth, kAffine, Activation::kSiLU>
                                                             : gather_kernel<T, kWidth, kAffine, Activation::kNone>;
  const GatherDivisors divisors = {FastDivisor(params.taps), FastDivisor(params.out_rows)};
  launch("gather", kernel, tiling.shape(), stream, params, tiling, divisors);
}

template <typename T, int kWidth>
void launch_gather(const GatherParams& params, void* stream) {
  params.scale ? launch_gather<T, kWidth, true>(params, stream) : launch_gather<T, kWidth, false>(params, stream);
}

}  // namespace

void gather(const GatherParams& params, void* stream) {
  const RowSource& source = params.source;
  dispatch_dtype(params.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    can_vectorise<T>({source.packed, source.recorded, params.out, params.scale, params.shift}, {source.channels})
        ? launch_gather<T, kVectorWidth<T>>(params, stream)
        : launch_gather<T, 1>(params, stream);
  });
}

}  // namespace sige::cuda
