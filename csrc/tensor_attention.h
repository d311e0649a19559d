// block_attention on tensor cores, for fp16 and bf16: it has no CPU twin, block_attention.cpp is that.
#pragma once

#include "block_attention.h"

namespace sige::cuda {

// Says whether the kernel takes these tensors: heads of up to 160 channels, all rows on 16-byte boundaries.
bool takes_tensor_attention(const BlockAttentionParams& params);

// The numbers of fp32 that the parts of a split softmax need in params.workspace; 0 without a split.
int64_t tensor_attention_workspace(const BlockAttentionParams& params);

void tensor_attention(const BlockAttentionParams& params, void* stream);

}  // namespace sige::cuda
