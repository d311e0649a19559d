// sige::block_attention: checks, allocation, launch.
#include "block_attention.h"
#include "common/op.h"

namespace sige {

static void check_arguments(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& recorded_key,
                            const Tensor& recorded_value, const Tensor& index, int64_t heads,
                            const OptionalTensor& block_mask) {
  const char* op = "block_attention";
  const ScalarType dtype = query.scalar_type();
  check_tensor({op, "query", query}, query, dtype, "[B, N, C]", {-1, -1, -1});
  const int64_t batch = query.size(0), channels = query.size(2);
  if (heads < 1 || channels % heads) {
    fail(op, ": heads is ", heads, ", expected a divisor of the ", channels, " channels of query");
  }
  check_tensor({op, "key", key}, query, dtype, "[B, K, C]", {batch, -1, channels});
  check_tensor({op, "value", value}, query, dtype, "[B, K, C]", {batch, key.size(1), channels});
  check_tensor({op, "recorded_key", recorded_key}, query, dtype, "[B, M, C]", {batch, -1, channels});
  check_tensor({op, "recorded_value", recorded_value}, query, dtype, "[B, M, C]",
               {batch, recorded_key.size(1), channels});
  check_tensor({op, "index", index}, query, ScalarType::Int, "[L]", {-1});
  if (block_mask) {
    check_tensor({op, "block_mask", *block_mask}, query, ScalarType::Bool, "[ceil(N / 64), ceil(L / 64)]",
                 {ceil_div(query.size(1), kAttentionBlock), ceil_div(index.size(0), kAttentionBlock)});
  }
}

Tensor block_attention(const Tensor& query,           // [B, N, Hd * D]
                       const Tensor& key,             // [B, K, Hd * D]
                       const Tensor& value,           // [B, K, Hd * D]
                       const Tensor& recorded_key,    // [B, M, Hd * D]
                       const Tensor& recorded_value,  // [B, M, Hd * D]
                       const Tensor& index,           // int32 [L]
                       int64_t heads,
                       const OptionalTensor& block_mask,  // bool [ceil(N / 64), ceil(L / 64)]
                       double scale) {
  check_arguments(query, key, value, recorded_key, recorded_value, index, heads, block_mask);
  const Launch launch(query);
  check_index({"block_attention", "index", index}, launch, -1, key.size(1) + recorded_key.size(1));

  const int64_t channels = query.size(2);
  BlockAttentionParams params{};
  params.query = query.const_data_ptr();
  params.key = {key.const_data_ptr(), recorded_key.const_data_ptr(), key.size(1), recorded_key.size(1), channels};
  params.value = {value.const_data_ptr(), recorded_value.const_data_ptr(), key.size(1), recorded_key.size(1), channels};
  params.index = index.const_data_ptr<int32_t>();
  params.block_mask = block_mask ? block_mask->const_data_ptr<bool>() : nullptr;
  params.batch = query.size(0);
  params.queries = query.size(1);
  params.keys = index.size(0);
  params.heads = heads;
  params.head_size = channels / heads;
  params.scale = static_cast<float>(scale);
  params.dtype = storage_dtype({"block_attention", "query", query});
  const Tensor out = new_tensor(query, {query.size(0), query.size(1), channels});
  params.out = out.mutable_data_ptr();
  const int64_t workspace_size = device::attention_workspace(params);
  OptionalTensor workspace;
  if (workspace_size) {
    workspace = new_tensor(query, {workspace_size}, ScalarType::Float);
    params.workspace = workspace->mutable_data_ptr<float>();
  }
  launch.run(device::block_attention, params);
  return out;
}

}  // namespace sige

SIGE_LIBRARY(m) { m.impl("block_attention", TORCH_BOX(&sige::block_attention)); }
