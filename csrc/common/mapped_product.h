// Whether an op of the CUDA library multiplies with row_product or with the platform's library, and the call.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "common/op.h"
#include "row_product.h"

namespace sige {

// What an op need not do where row_product multiplies: launches of other kernels, and the bytes that they move.
struct SavedWork {
  int64_t launches;
  int64_t bytes;
};

// The part of the parameters that bias, residual and output decide: rows first .. first + count of out [B, N, C_out].
// The caller sets source, index and taps.
inline MappedProductParams output_params(const Tensor& weight,            // [C_out, K]
                                         const OptionalTensor& bias,      // [C_out] or [B, C_out]
                                         const OptionalTensor& residual,  // [B, N, C_out]
                                         const Tensor& out, int64_t first, int64_t count, DType dtype) {
  const int64_t offset = first * out.size(2) * static_cast<int64_t>(out.element_size());
  MappedProductParams params{};
  params.weights[0] = weight.const_data_ptr();
  params.biases[0] = bias ? bias->const_data_ptr() : nullptr;
  params.layers = 1;
  params.residual = residual ? static_cast<const char*>(residual->const_data_ptr()) + offset : nullptr;
  params.out = static_cast<char*>(out.mutable_data_ptr()) + offset;
  params.rows = count;
  params.first_row = first;
  params.sample_rows = out.size(1);
  params.columns = out.size(2);
  params.bias_stride = bias && bias->dim() == 2 ? bias->stride(0) : 0;
  params.dtype = dtype;
  return params;
}

// Says whether the kernel can take this product: 16-bit types, and 16-byte vectors throughout.
inline bool fits_mapped_product(const MappedProductParams& p) {
  constexpr int64_t kMost = int64_t{1} << 30;  // the kernel counts rows, and columns of K, in 32 bits
  if (p.dtype == DType::kFloat32 || p.taps < 1 || p.taps > kMostProductTaps) return false;
  for (const int64_t count : {p.source.channels, p.columns}) {
    if (count <= 0 || count % 8 != 0 || count * p.taps > kMost) return false;
  }
  if (p.first_row + p.rows > kMost) return false;
  for (const void* pointer : {p.source.packed, p.source.recorded, p.residual}) {
    if (reinterpret_cast<uintptr_t>(pointer) % 16 != 0) return false;
  }
  for (int64_t layer = 0; layer < p.layers; ++layer) {
    for (const void* pointer : {p.weights[layer], p.biases[layer]}) {
      if (reinterpret_cast<uintptr_t>(pointer) % 16 != 0) return false;
    }
  }
  return p.bias_stride % 8 == 0 && reinterpret_cast<uintptr_t>(p.out) % 16 == 0;
}

// Says whether row_product is the faster one, by a roofline; nothing here is measured. Its products take longer than
// cuBLAS's in proportion to their number: on sm_90 it reaches about 450 TFLOP/s with mma.sync, cuBLAS about 700 with
// wgmma. On sm_80 to sm_89 both use mma.sync, later devices have faster instructions still. In return it saves work.
//   - Convolutions: the gathered rows, written and read, cost 1.6 ps per element of [M, K], as much as the slower
//     products at C_out = 1000. The launches of each chunk pay for the rest at 1280: row_product takes all of SDXL's.
//     At the refiner's 1536 both are even: the platform takes what is one nearly full chunk.
//   - Linear layers with a residual on sm_90: all of 640 x 640; 1280 x 1280 up to 5200 rows, 2560 to 640 up to 1900,
//     5120 to 1280 up to 350. Without bias and residual nothing is saved: the platform's.
//   - Query, key and value of 1280 x 1280 on sm_90: up to 1000 rows; of 640 x 640 up to 6300.
inline bool prefers_mapped_product(const MappedProductParams& p, const SavedWork& saved, int64_t generation) {
  constexpr double kLaunch = 3e-6;            // seconds from one small kernel's start to the next one's
  constexpr double kBytesPerSecond = 2.5e12;  // of a gather whose data stays in the L2 cache
  const double lost = generation >= 10 ? 2.6e-15 : generation == 9 ? 1.6e-15 : 0.7e-15;  // seconds per product
  const double products =
      static_cast<double>(p.rows * p.columns * p.layers) * static_cast<double>(p.taps * p.source.channels);
  return products * lost <=
         static_cast<double>(saved.launches) * kLaunch + static_cast<double>(saved.bytes) / kBytesPerSecond;
}

// Says whether row_product takes this product. SIGE_PRODUCT=own asks for it wherever it fits, SIGE_PRODUCT=platform for
// the platform's.
inline bool takes_mapped_product(const MappedProductParams& params, const SavedWork& saved) {
  if (!fits_mapped_product(params)) return false;
  const char* wanted = std::getenv("SIGE_PRODUCT");
  if (wanted && *wanted) return !std::strcmp(wanted, "own");
  return prefers_mapped_product(params, saved, cuda::product_device().generation);
}

inline void run_mapped_product(const Launch& launch, const Tensor& like, MappedProductParams params) {
  params.plan = plan_product(params.rows, params.columns, params.taps * params.source.channels,
                             cuda::product_device().multiprocessors, params.layers);
  OptionalTensor partials;
  if (params.plan.splits > 1) {
    partials = new_tensor(like, {params.layers * params.plan.splits, params.rows, params.columns}, ScalarType::Float);
    params.partials = partials->mutable_data_ptr<float>();
  }
  launch.run(cuda::row_product, params);
}

}  // namespace sige
