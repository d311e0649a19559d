// What the ops of the CUDA library decide from shapes, for tests/ops/test_launch_plans.py.
#include "common/mapped_product.h"
#include "tensor_attention.h"

#define SIGE_EXPORT extern "C" __attribute__((visibility("default")))

// Says whether row_product takes the product; sizes: rows, C_out, T, C, launches and bytes that it saves, layers.
SIGE_EXPORT bool sige_takes_row_product(const int64_t* sizes, int32_t dtype, int64_t generation) {
  using namespace sige;
  MappedProductParams params{};
  params.layers = sizes[6];
  params.rows = sizes[0];
  params.columns = sizes[1];
  params.taps = sizes[2];
  params.source.channels = sizes[3];
  params.dtype = static_cast<DType>(dtype);
  return fits_mapped_product(params) && prefers_mapped_product(params, {sizes[4], sizes[5]}, generation);
}

// The splits over the keys, 0 where tensor cores do not take the heads; sizes: heads of all samples, N, L, D.
SIGE_EXPORT int64_t sige_attention_splits(const int64_t* sizes, int32_t dtype) {
  using namespace sige;
  BlockAttentionParams params{};
  params.batch = 1;
  params.heads = sizes[0];
  params.queries = sizes[1];
  params.keys = sizes[2];
  params.head_size = sizes[3];
  params.dtype = static_cast<DType>(dtype);
  if (!cuda::takes_tensor_attention(params)) return 0;
  const int64_t workspace = cuda::tensor_attention_workspace(params);
  return workspace ? workspace / (params.heads * params.queries * (params.head_size + 1)) : 1;
}
