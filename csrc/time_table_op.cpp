// sige::time_table: checks, allocation, launch.
#include "common/term_arguments.h"
#include "time_table.h"

namespace sige {

static TimeTableParams checked_layers(const Tensor& time, const Tensors& weights, const Tensors& biases,
                                      const Tensors& added) {
  const char* op = "time_table";
  check_tensor({op, "time", time}, time, time.scalar_type(), "[B, E]", {-1, -1});
  if (weights.empty() || static_cast<int64_t>(weights.size()) > kMostTables) {
    fail(op, ": weights has ", weights.size(), " tensors, expected 1 to ", kMostTables);
  }
  check_as_many(op, "biases", biases, "weights", weights);
  check_as_many(op, "added", added, "weights", weights);
  TimeTableParams params{};
  params.dtype = storage_dtype({op, "time", time});
  params.layers = static_cast<int64_t>(weights.size());
  params.batch = time.size(0);
  params.size = time.size(1);
  int64_t first = 0;
  for (size_t k = 0; k < weights.size(); ++k) {
    const std::string weight = term_name("weights", k), bias = term_name("biases", k), more = term_name("added", k);
    check_tensor({op, weight.c_str(), weights[k]}, time, time.scalar_type(), "[C, E]", {-1, params.size});
    check_tensor({op, bias.c_str(), biases[k]}, time, time.scalar_type(), "[C]", {weights[k].size(0)});
    check_tensor({op, more.c_str(), added[k]}, time, time.scalar_type(), "[C]", {weights[k].size(0)});
    params.weights[k] = weights[k].const_data_ptr();
    params.biases[k] = biases[k].const_data_ptr();
    params.added[k] = added[k].const_data_ptr();
    params.firsts[k] = static_cast<int32_t>(first);
    first += weights[k].size(0);
    if (first > INT32_MAX) fail(op, ": weights have more than ", INT32_MAX, " rows together");
  }
  params.firsts[params.layers] = static_cast<int32_t>(first);
  return params;
}

Tensor time_table(const Tensor& time,      // [B, E]
                  const Tensors& weights,  // [C_k, E] each
                  const Tensors& biases,   // [C_k] each
                  const Tensors& added) {  // [C_k] each
  TimeTableParams params = checked_layers(time, weights, biases, added);
  const Launch launch(time);
  const Tensor out = new_tensor(time, {params.batch, params.firsts[params.layers]});
  if (out.numel() == 0) return out;
  params.time = time.const_data_ptr();
  params.out = out.mutable_data_ptr();
  launch.run(device::time_table, params);
  return out;
}

}  // namespace sige

SIGE_LIBRARY(m) { m.impl("time_table", TORCH_BOX(&sige::time_table)); }
