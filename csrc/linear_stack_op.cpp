// sige::linear_stack: several linear layers of the same packed rows, whose weights stay where they are.
#include "common/product.h"
#include "common/term_arguments.h"

namespace sige {

struct StackArguments {
  const Tensor& rows;      // [B, N, C]
  const Tensors& weights;  // [C_out, C] each
  const Tensors& biases;   // [C_out] each, or none

  OptionalTensor bias(size_t layer) const { return biases.empty() ? OptionalTensor() : biases[layer]; }
};

static void check_layers(const StackArguments& a) {
  const char* op = "linear_stack";
  const ScalarType type = a.rows.scalar_type();
  check_tensor({op, "rows", a.rows}, a.rows, type, "[B, N, C]", {-1, -1, -1});
  if (a.weights.empty() || static_cast<int64_t>(a.weights.size()) > kMostLayers) {
    fail(op, ": weights has ", a.weights.size(), " tensors, expected 1 to ", kMostLayers);
  }
  if (!a.biases.empty()) check_as_many(op, "biases", a.biases, "weights", a.weights);
  for (size_t k = 0; k < a.weights.size(); ++k) {
    const std::string weight = term_name("weights", k), bias = term_name("biases", k);
    const int64_t columns = k ? a.weights[0].size(0) : -1;
    check_tensor({op, weight.c_str(), a.weights[k]}, a.rows, type, "[C_out, C]", {columns, a.rows.size(2)});
    if (!a.biases.empty()) {
      check_tensor({op, bias.c_str(), a.biases[k]}, a.rows, type, "[C_out]", {a.weights[0].size(0)});
    }
  }
}

#if defined(SIGE_CUDA) || defined(SIGE_CUDA_SHIM)
// All products in one launch, if row_product is faster than the platform's products one by one.
static bool multiply_together(const Launch& launch, const StackArguments& a, const Tensor& out,  // [P * B, N, C_out]
                              DType dtype) {
  const int64_t count = a.rows.size(0) * a.rows.size(1), others = static_cast<int64_t>(a.weights.size()) - 1;
  MappedProductParams params = output_params(a.weights[0], a.bias(0), std::nullopt, out, 0, count, dtype);
  params.source = {a.rows.const_data_ptr(), nullptr, count, 0, a.rows.size(2)};
  params.taps = 1;
  params.layers = others + 1;
  for (size_t k = 1; k < a.weights.size(); ++k) {
    params.weights[k] = a.weights[k].const_data_ptr();
    params.biases[k] = a.biases.empty() ? nullptr : a.biases[k].const_data_ptr();
  }
  const SavedWork saved = {others, 2 * others * a.rows.numel()};  // the platform reads the rows for each layer
  if (!takes_mapped_product(params, saved)) return false;
  run_mapped_product(launch, a.rows, params);
  return true;
}

// The platform's product adds the bias by itself.
static void multiply_one(const StackArguments& a, size_t layer, const Tensor& out) {  // [P * B, N, C_out]
  const int64_t count = a.rows.size(0) * a.rows.size(1);
  Tensor weight = a.weights[layer];
  const Tensor part = matrix_rows(out, static_cast<int64_t>(layer) * count, count);
  const OptionalTensor bias = a.bias(layer);
  platform_product(matrix_rows(a.rows, 0, count), torch::stable::transpose(weight, 0, 1), bias ? 1.0 : 0.0,
                   bias ? *bias : part, part);
}
#endif

static void multiply_layers(const Launch& launch, const StackArguments& a, const Tensor& out,  // [P * B, N, C_out]
                            DType dtype) {
#if defined(SIGE_CUDA) || defined(SIGE_CUDA_SHIM)
  if (multiply_together(launch, a, out, dtype)) return;
  for (size_t k = 0; k < a.weights.size(); ++k) multiply_one(a, k, out);
#else
  const int64_t count = a.rows.size(0) * a.rows.size(1);
  for (size_t k = 0; k < a.weights.size(); ++k) {
    multiply_linear(launch, a.rows, a.weights[k], a.bias(k), std::nullopt, out, static_cast<int64_t>(k) * count, dtype);
  }
#endif
}

Tensor linear_stack(const Tensor& rows,       // [B, N, C]
                    const Tensors& weights,   // [C_out, C] each
                    const Tensors& biases) {  // [C_out] each, or none
  const StackArguments arguments{rows, weights, biases};
  check_layers(arguments);
  const DType dtype = storage_dtype({"linear_stack", "rows", rows});
  const int64_t layers = static_cast<int64_t>(weights.size()), columns = weights[0].size(0);
  const Launch launch(rows);
  Tensor out = new_tensor(rows, {layers, rows.size(0), rows.size(1), columns});
  if (out.numel() == 0) return out;
  const Tensor samples = torch::stable::view(out, {layers * rows.size(0), rows.size(1), columns});
  multiply_layers(launch, arguments, samples, dtype);
  return out;
}

}  // namespace sige

SIGE_LIBRARY(m) { m.impl("linear_stack", TORCH_BOX(&sige::linear_stack)); }
