// group_stats on the CPU: a block of rows summed per channel in fp32, folded into groups and over blocks in fp64.
#include "group_stats.h"

#include "common/simd.h"

namespace sige::SIGE_CPU_VARIANT {

// Adds one block's sums per channel, new minus old, to `sums` and `squares`.
template <typename T>
static void sum_block(const GroupStatsParams& params, int64_t term, int64_t b, int64_t first, int64_t last,
                      float* sums,       // [C]
                      float* squares) {  // [C]
  const int64_t channels = params.channels;
  const T* rows = static_cast<const T*>(params.rows);           // [B, N, C]
  const T* old = static_cast<const T*>(params.old_rows[term]);  // [B, M, C] or null
  for (int64_t n = first; n < last; ++n) {
    const int64_t replaced = replaced_row(params, n);
    if (replaced < 0) continue;
    const T* row = rows + (b * params.row_count + n) * channels;
    const T* old_row = old ? old + (b * params.old_row_count + replaced) * channels : nullptr;
    for (int64_t c = 0; c < channels; c += kLanes) {
      const int64_t count = channels - c;
      const Vec value = load(row + c, count);
      Vec sum = value, square = value * value;
      if (old_row) {
        const Vec replaced = load(old_row + c, count);
        sum -= replaced;
        square = (value - replaced) * (value + replaced);  // exactly zero for a row that did not change
      }
      store(sums + c, load(sums + c, count) + sum, count);
      store(squares + c, load(squares + c, count) + square, count);
    }
  }
}

static void fold_channels(const GroupStatsParams& params, const float* sums,  // [C]
                          const float* squares,                               // [C]
                          double* stats) {                                    // [G, 2]
  const int64_t size = params.channels / params.groups;
  for (int64_t g = 0; g < params.groups; ++g) {
    double sum = 0.0, square = 0.0;
    for (int64_t c = g * size; c < (g + 1) * size; ++c) {
      sum += sums[c];
      square += squares[c];
    }
    stats[2 * g] = sum;
    stats[2 * g + 1] = square;
  }
}

template <typename T>
static void block_partials(const GroupStatsParams& params) {
  const int64_t blocks = ceil_div(params.row_count, kStatsRows);
#pragma omp parallel for schedule(static) if (params.terms * params.batch * params.row_count * params.channels > \
                                                  1 << 16)
  for (int64_t i = 0; i < params.terms * params.batch * blocks; ++i) {
    const int64_t sample = i / blocks;  // of [K * B]
    const int64_t first = (i % blocks) * kStatsRows;
    const int64_t last = first + kStatsRows < params.row_count ? first + kStatsRows : params.row_count;
    const Floats sums(2 * params.channels);  // [2, C]
    float* squares = sums.data() + params.channels;
    sum_block<T>(params, sample / params.batch, sample % params.batch, first, last, sums.data(), squares);
    fold_channels(params, sums.data(), squares, params.partial + i * params.groups * 2);
  }
}

void group_stats(const GroupStatsParams& params) {
  dispatch(params.dtype, [&](auto tag) { block_partials<decltype(tag)>(params); });
  const int64_t blocks = ceil_div(params.row_count, kStatsRows);
  const int64_t width = params.groups * 2;
  for (int64_t i = 0; i < params.terms * params.batch * width; ++i) {
    const int64_t sample = i / width;  // of [K * B]
    const double* base = params.base[sample / params.batch];
    const double* partial = params.partial + sample * blocks * width + i % width;
    double sum = base ? base[i % (params.batch * width)] : 0.0;
    for (int64_t block = 0; block < blocks; ++block) sum += partial[block * width];
    params.out[i] = sum;
  }
}

}  // namespace sige::SIGE_CPU_VARIANT
