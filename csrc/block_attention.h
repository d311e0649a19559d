// block_attention: active queries against the keys and values that a row index picks from fresh and recorded rows. On
// CUDA tensor_attention.cu takes what tensor cores can, block_attention.cu the rest.
#pragma once

#include "common/row_source.h"

namespace sige {

constexpr int64_t kAttentionBlock = 64;  // queries and keys per entry of the block mask

struct BlockAttentionParams {
  const void* query;       // [B, N, Hd, D]
  RowSource key;           // fresh [B, K, Hd, D], recorded [B, M, Hd, D]; channels = Hd * D
  RowSource value;         // the same rows as key
  const int32_t* index;    // [L]: the keys that are seen, in order; a negative entry is not seen
  const bool* block_mask;  // [ceil(N / 64), ceil(L / 64)] or null: which key blocks a query block sees
  void* out;               // [B, N, Hd, D]; a query that sees no key gives zeros
  float* workspace;        // [attention_workspace(params)]
  int64_t batch;           // B
  int64_t queries;         // N
  int64_t keys;            // L
  int64_t heads;           // Hd
  int64_t head_size;       // D
  float scale;             // multiplies query . key
  DType dtype;             // of query, key, value and out
};

SIGE_HOST_DEVICE inline bool block_is_seen(const BlockAttentionParams& params, int64_t query_block, int64_t key_block) {
  return !params.block_mask || params.block_mask[query_block * ceil_div(params.keys, kAttentionBlock) + key_block];
}

// attention_workspace: the fp32 numbers of working memory that the kernel needs, when all else of params is set.
namespace cpu {
inline int64_t attention_workspace(const BlockAttentionParams&) { return 0; }
void block_attention(const BlockAttentionParams& params);
}  // namespace cpu
namespace cuda {
int64_t attention_workspace(const BlockAttentionParams& params);
void block_attention(const BlockAttentionParams& params, void* stream);
}  // namespace cuda

}  // namespace sige
