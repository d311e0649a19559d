// row_product with a tile and a number of splits by hand, and its plan, for tests/ops/test_row_product.py.
#include "row_product.h"

#define SIGE_EXPORT extern "C" __attribute__((visibility("default")))

// Pointers as in MappedProductParams; sizes: N, M, C, N_out, T, C_out, B, bias_stride, layers. The layers' weights lie
// one after the other, and so do their biases.
SIGE_EXPORT void sige_row_product(const void* const* pointers, void* out, float* partials, const int64_t* sizes,
                                  int32_t dtype, int32_t tile, int32_t splits) {
  using namespace sige;
  MappedProductParams params{};
  params.source = {pointers[0], pointers[1], sizes[0], sizes[1], sizes[2]};
  params.index = static_cast<const int32_t*>(pointers[2]);
  params.residual = pointers[5];
  params.out = out;
  params.partials = partials;
  params.sample_rows = sizes[3];
  params.taps = sizes[4];
  params.columns = sizes[5];
  params.rows = sizes[6] * sizes[3];
  params.bias_stride = sizes[7];
  params.layers = sizes[8];
  const auto* weights = static_cast<const uint16_t*>(pointers[3]);
  const auto* biases = static_cast<const uint16_t*>(pointers[4]);
  for (int64_t layer = 0; layer < params.layers; ++layer) {
    params.weights[layer] = weights + layer * sizes[5] * sizes[4] * sizes[2];
    params.biases[layer] = biases ? biases + layer * sizes[5] : nullptr;
  }
  params.dtype = static_cast<DType>(dtype);
  const int64_t steps = ceil_div(params.taps * params.source.channels, kProductTiles[tile].depth);
  const int64_t in_split = ceil_div(steps, splits);
  params.plan = {static_cast<ProductTileSize>(tile), static_cast<int32_t>(ceil_div(steps, in_split)),
                 static_cast<int32_t>(in_split), 0.0};
  cuda::row_product(params, nullptr);
}

// The plan's tile, splits and steps, and its estimated clocks.
SIGE_EXPORT double sige_plan_product(int64_t rows, int64_t columns, int64_t depth, int64_t multiprocessors,
                                     int64_t layers, int32_t* plan) {
  const sige::ProductPlan chosen = sige::plan_product(rows, columns, depth, multiprocessors, layers);
  plan[0] = static_cast<int32_t>(chosen.tile);
  plan[1] = chosen.splits;
  plan[2] = chosen.steps;
  return chosen.clocks;
}
