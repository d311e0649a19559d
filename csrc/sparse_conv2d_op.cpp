// sige::sparse_conv2d: a product whose left rows are put together through the gather map.
//
// Where row_product is faster, the op makes no gathered matrix: on CUDA the kernel reads the map, on the CPU a pointer
// per row and tap. Elsewhere it gathers, one chunk of rows after another, and the product is the platform's (MKL,
// oneDNN, cuBLAS). The gathered matrix [B * N_out, T * C] is T times as large as the rows that it copies, so only one
// chunk of it exists at a time: all chunks use one buffer, which stays in cache.
#include <algorithm>
#include <vector>

#include "common/gather_arguments.h"
#include "common/product.h"

namespace sige {

#if defined(SIGE_CUDA)
static constexpr int64_t kChunkBytes = int64_t{24} << 20;  // stays in the L2 cache of an A100 (40 MB) or H200 (50 MB)
#else
static constexpr int64_t kChunkBytes = int64_t{16} << 20;
#endif

struct ConvArguments {
  Tensor packed;            // [B, N, C]
  Tensor weight;            // [C_out, T * C]
  OptionalTensor bias;      // [C_out], or [B, C_out] with any distance between its rows
  OptionalTensor residual;  // [B, N_out, C_out]
};

static void check_bias(const Argument& bias, const Tensor& packed, int64_t out_channels) {
  if (bias.tensor.dim() != 2) return check_tensor(bias, packed, packed.scalar_type(), "[C_out]", {out_channels});
  check_shape(bias, "[B, C_out]", {packed.size(0), out_channels});
  check_dtype(bias, packed.scalar_type());
  check_same_device(bias, packed);
  if (out_channels > 1 && bias.tensor.stride(1) != 1) check_contiguous(bias);
}

static void check_product(const ConvArguments& a, const GatherParams& params) {
  const char* op = "sparse_conv2d";
  const ScalarType dtype = a.packed.scalar_type();
  check_tensor({op, "weight", a.weight}, a.packed, dtype, "[C_out, T * C]", {-1, params.taps * params.source.channels});
  const int64_t out_channels = a.weight.size(0);
  if (a.bias) check_bias({op, "bias", *a.bias}, a.packed, out_channels);
  if (a.residual) {
    check_tensor({op, "residual", *a.residual}, a.packed, dtype, "[B, N_out, C_out]",
                 {a.packed.size(0), params.out_rows, out_channels});
  }
}

// Rows of equal chunks that fit the buffer; `wanted` > 0 overrides.
static int64_t chunk_rows(const GatherParams& params, int64_t element_size, int64_t wanted) {
  const int64_t rows = params.row_count;
  const int64_t row_bytes = params.taps * params.source.channels * element_size;
  const int64_t limit = wanted > 0 ? wanted : std::max<int64_t>(kChunkBytes / std::max<int64_t>(row_bytes, 1), 64);
  return ceil_div(rows, std::max<int64_t>(ceil_div(rows, limit), 1));
}

// Applies scale, shift and activation to each row once, instead of once for every tap that reads it, and points
// `params` at the result. The returned tensor keeps that memory alive.
static OptionalTensor activate_rows(const Launch& launch, const Tensor& packed, GatherParams& params) {
  const bool transforms = params.scale || params.activation != Activation::kNone;
  const int64_t rows = params.source.packed_rows + params.source.recorded_rows;
  if (!transforms || rows >= params.out_rows * params.taps) return std::nullopt;
  const Tensor activated = new_tensor(packed, {packed.size(0), rows, params.source.channels});
  GatherParams all = params;
  all.index = nullptr;
  all.taps = 1;
  all.out_rows = rows;
  all.row_count = packed.size(0) * rows;
  all.out = activated.mutable_data_ptr();
  launch.run(device::gather, all);
  params.source = {all.out, nullptr, rows, 0, params.source.channels};
  params.scale = params.shift = nullptr;
  params.activation = Activation::kNone;
  return activated;
}

static void multiply_chunks(const Launch& launch, const ConvArguments& a, GatherParams params, int64_t rows_per_chunk,
                            const Tensor& out) {  // [B, N_out, C_out]
  const int64_t rows = params.row_count;
  Tensor buffer = new_tensor(a.packed, {rows_per_chunk, a.weight.size(1)});
  params.out = buffer.mutable_data_ptr();
  for (int64_t first = 0; first < rows; first += rows_per_chunk) {
    params.first_row = first;
    params.row_count = std::min(rows_per_chunk, rows - first);
    launch.run(device::gather, params);
    multiply_rows(launch, buffer, a.weight, a.bias, a.residual, out, first, params.row_count, params.dtype);
  }
}

#if defined(SIGE_CUDA) || defined(SIGE_CUDA_SHIM)
// The convolution through the map, if row_product is faster than the chunks.
static bool multiply_mapped(const Launch& launch, const ConvArguments& a, const GatherParams& params,
                            int64_t rows_per_chunk, const Tensor& out) {  // [B, N_out, C_out]
  MappedProductParams mapped = output_params(a.weight, a.bias, a.residual, out, 0, params.row_count, params.dtype);
  mapped.source = params.source;
  mapped.index = params.index;
  mapped.taps = params.taps;
  const bool starts = a.bias || a.residual;
  const int64_t chunks = ceil_div(params.row_count, rows_per_chunk);
  const int64_t gathered = params.row_count * params.taps * params.source.channels;
  const SavedWork saved = {chunks * (starts ? 3 : 2) - 1, 4 * gathered + (starts ? 4 * out.numel() : 0)};
  if (!takes_mapped_product(mapped, saved)) return false;
  run_mapped_product(launch, a.packed, mapped);
  return true;
}
#endif

#if !defined(SIGE_CUDA) && !defined(SIGE_CUDA_SHIM)
// The convolution by pointers: row_product copies a block of rows at a time into its buffer, zero rows included.
static void multiply_pieces(const Launch& launch, const ConvArguments& a, const GatherParams& params, int64_t most_rows,
                            const Tensor& out) {  // [B, N_out, C_out]
  const int64_t taps = params.taps, columns = a.weight.size(0);
  const bool starts = a.residual || (a.bias && a.bias->dim() == 2);  // the product is added to what is written first
  // The list is as long as the rows, not as the limit: to clear 16 MB takes longer than the product of a small region.
  const int64_t rows_per_chunk = std::min(most_rows, params.row_count);
  std::vector<const float*> pieces(static_cast<size_t>(rows_per_chunk * taps));
  for (int64_t first = 0; first < params.row_count; first += rows_per_chunk) {
    const int64_t rows = std::min(rows_per_chunk, params.row_count - first);
    for (int64_t r = 0; r < rows; ++r) {
      const GatherRow at = gather_row(params, first + r);
      for (int64_t tap = 0; tap < taps; ++tap) {
        pieces[r * taps + tap] = params.source.row<float>(at.batch, gather_entry(params, at.first_slot + tap));
      }
    }
    if (starts) fill_out(launch, a.bias, a.residual, out, first, rows, params.dtype);
    cpu::row_product(
        {pieces.data(), a.weight.const_data_ptr<float>(), a.bias && !starts ? a.bias->const_data_ptr<float>() : nullptr,
         out.mutable_data_ptr<float>() + first * columns, rows, columns, taps, params.source.channels, starts});
  }
}
#endif

static void multiply(const Launch& launch, const ConvArguments& a, const GatherParams& params, int64_t wanted_chunk,
                     const Tensor& out) {  // [B, N_out, C_out]
  const bool transforms = params.scale || params.activation != Activation::kNone;
  const int64_t rows_per_chunk = chunk_rows(params, static_cast<int64_t>(a.packed.element_size()), wanted_chunk);
#if defined(SIGE_CUDA) || defined(SIGE_CUDA_SHIM)
  if (!transforms && multiply_mapped(launch, a, params, rows_per_chunk, out)) return;
#else
  if (!transforms && takes_row_product(params.dtype, a.weight.size(0), params.source.channels)) {
    const int64_t pointer_rows = kChunkBytes / static_cast<int64_t>(sizeof(float*)) / params.taps;
    return multiply_pieces(launch, a, params, wanted_chunk > 0 ? wanted_chunk : pointer_rows, out);
  }
#endif
  multiply_chunks(launch, a, params, rows_per_chunk, out);
}

Tensor sparse_conv2d(const Tensor& packed,         // [B, N, C]
                     const Tensor& recorded,       // [B, M, C]
                     const Tensor& index,          // int32 [N_out, T]
                     const Tensor& weight,         // [C_out, T * C]
                     const OptionalTensor& bias,   // [C_out] or [B, C_out]
                     const OptionalTensor& scale,  // fp32 [B, C]
                     const OptionalTensor& shift,  // fp32 [B, C]
                     int64_t activation,
                     const OptionalTensor& residual,  // [B, N_out, C_out]
                     int64_t rows_per_chunk) {
  const Launch launch(packed);
  GatherParams params = gather_params("sparse_conv2d", launch, packed, recorded, index, scale, shift, activation);
  const ConvArguments arguments{packed, weight, bias, residual};
  if (rows_per_chunk < 0) {
    fail("sparse_conv2d: chunk_rows is ", rows_per_chunk, ", expected 0 (automatic) or a positive number of rows");
  }
  check_product(arguments, params);
  const int64_t batch = packed.size(0);
  Tensor out = new_tensor(packed, {batch, params.out_rows, weight.size(0)});
  if (out.numel() > 0) {
    const OptionalTensor activated = activate_rows(launch, packed, params);
    multiply(launch, arguments, params, rows_per_chunk, out);
  }
  return out;
}

}  // namespace sige

SIGE_LIBRARY(m) { m.impl("sparse_conv2d", TORCH_BOX(&sige::sparse_conv2d)); }
