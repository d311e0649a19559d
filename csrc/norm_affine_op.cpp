// sige::norm_affine: checks, allocation, launch.
#include <tuple>

#include "common/stats_arguments.h"
#include "common/term_arguments.h"
#include "norm_affine.h"

namespace sige {

struct NormArguments {
  const Tensors& stats;     // fp64 [B, G, 2] each
  const Tensors& recorded;  // [B, M, C] each
  const Tensor& blend;      // fp64 [K], one for each of stats
  const Tensor& index;      // int32 [N]
  const Tensor& packed;     // [B, N, C]
};

static GroupStatsParams checked_terms(const NormArguments& a) {
  const char* op = "norm_affine";
  check_terms(op, "stats", a.stats);
  check_as_many(op, "recorded", a.recorded, "stats", a.stats);
  check_weights(op, "blend", a.blend, a.stats);
  check_shape({op, "stats[0]", a.stats[0]}, "[B, G, 2]", {-1, -1, 2});
  GroupStatsParams params = row_params(op, "packed", a.packed, a.stats[0].size(1));
  for (size_t k = 0; k < a.stats.size(); ++k) {
    const std::string sums = term_name("stats", k), rows = term_name("recorded", k);
    check_tensor({op, sums.c_str(), a.stats[k]}, a.packed, ScalarType::Double, "[B, G, 2]",
                 {params.batch, params.groups, 2});
    check_tensor({op, rows.c_str(), a.recorded[k]}, a.packed, a.packed.scalar_type(), "[B, M, C]",
                 {params.batch, k ? a.recorded[0].size(1) : -1, params.channels});
    params.base[k] = a.stats[k].const_data_ptr<double>();
    params.old_rows[k] = a.recorded[k].const_data_ptr();
  }
  params.terms = static_cast<int64_t>(a.stats.size());
  check_tensor({op, "index", a.index}, a.packed, ScalarType::Int, "[N]", {params.row_count});
  params.old_index = a.index.const_data_ptr<int32_t>();
  params.old_row_count = a.recorded[0].size(1);
  return params;
}

static DType parameter_dtype(const char* name, const Tensor& parameter, const Tensor& packed) {  // [C], [B, N, C]
  const bool single = parameter.scalar_type() == ScalarType::Float;
  check_tensor({"norm_affine", name, parameter}, packed, single ? ScalarType::Float : packed.scalar_type(), "[C]",
               {packed.size(2)});
  return storage_dtype({"norm_affine", name, parameter});
}

std::tuple<Tensor, Tensor> norm_affine(const Tensors& stats,          // fp64 [B, G, 2] each
                                       const Tensors& recorded,       // [B, M, C] each
                                       const Tensor& blend,           // fp64 [K], one for each of stats
                                       const Tensor& index,           // int32 [N]
                                       const Tensor& packed,          // [B, N, C]
                                       const OptionalTensor& weight,  // [C]
                                       const OptionalTensor& bias,    // [C]
                                       double eps) {
  NormAffineParams params{};
  params.sums = checked_terms({stats, recorded, blend, index, packed});
  if (weight) params.weight_dtype = parameter_dtype("weight", *weight, packed);
  if (bias) params.bias_dtype = parameter_dtype("bias", *bias, packed);
  const Launch launch(packed);
  GroupStatsParams& sums = params.sums;
  check_index({"norm_affine", "index", index}, launch, -1, sums.old_row_count);

  const Tensor scale = new_tensor(packed, {sums.batch, sums.channels}, ScalarType::Float);
  const Tensor shift = new_tensor(packed, {sums.batch, sums.channels}, ScalarType::Float);
  const Tensor updated = new_tensor(packed, {sums.terms, sums.batch, sums.groups, 2}, ScalarType::Double);
  const Tensor partial = new_partial(sums, packed);
  sums.out = updated.mutable_data_ptr<double>();
  sums.partial = partial.mutable_data_ptr<double>();
  params.blend = blend.const_data_ptr<double>();
  params.weight = weight ? weight->const_data_ptr() : nullptr;
  params.bias = bias ? bias->const_data_ptr() : nullptr;
  params.scale = scale.mutable_data_ptr<float>();
  params.shift = shift.mutable_data_ptr<float>();
  params.count = static_cast<double>(sums.old_row_count * (sums.channels / sums.groups));
  params.eps = eps;
  launch.run(device::norm_affine, params);
  return {scale, shift};
}

}  // namespace sige

SIGE_LIBRARY(m) { m.impl("norm_affine", TORCH_BOX(&sige::norm_affine)); }
