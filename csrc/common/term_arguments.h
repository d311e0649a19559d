// The arguments of ops that blend: lists with one entry for each term, checked with the messages of sige/ops/checks.py.
#pragma once

#include <string>
#include <vector>

#include "common/op.h"

namespace sige {

using Tensors = std::vector<Tensor>;

inline void check_terms(const char* op, const char* name, const Tensors& terms) {
  if (terms.empty() || static_cast<int64_t>(terms.size()) > kMostTerms) {
    fail(op, ": ", name, " has ", terms.size(), " tensors, expected 1 to ", kMostTerms);
  }
}

inline void check_as_many(const char* op, const char* name, const Tensors& got, const char* first,
                          const Tensors& terms) {
  if (got.size() == terms.size()) return;
  fail(op, ": ", name, " has ", got.size(), " entries, expected ", terms.size(), " like ", first);
}

// The weights of a blend: fp64 [K] on the device of the terms, so that a CUDA graph can run with other weights.
inline void check_weights(const char* op, const char* name, const Tensor& weights, const Tensors& terms) {
  check_tensor({op, name, weights}, terms[0], ScalarType::Double, "[K]", {static_cast<int64_t>(terms.size())});
}

// "rows[2]"
inline std::string term_name(const char* name, size_t term) {
  return std::string(name) + "[" + std::to_string(term) + "]";
}

}  // namespace sige
