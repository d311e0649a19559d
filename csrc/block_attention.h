// block_attention: active queries against the keys and values that a row index picks from fresh and recorded rows.
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

namespace cpu {
void block_attention(const BlockAttentionParams& params);
}
namespace cuda {
void block_attention(const BlockAttentionParams& params, void* stream);
}

}  // namespace sige
