// sige::gather: checks, allocation, launch.
#include "common/gather_arguments.h"

namespace sige {

Tensor gather(const Tensor& packed,         // [B, N, C]
              const Tensor& recorded,       // [B, M, C]
              const Tensor& index,          // int32 [N_out, T]
              const OptionalTensor& scale,  // fp32 [B, C]
              const OptionalTensor& shift,  // fp32 [B, C]
              int64_t activation) {
  const Launch launch(packed);
  GatherParams params = gather_params("gather", launch, packed, recorded, index, scale, shift, activation);
  const Tensor out = new_tensor(packed, {packed.size(0), params.out_rows, params.taps * params.source.channels});
  params.out = out.mutable_data_ptr();
  launch.run(device::gather, params);
  return out;
}

}  // namespace sige

SIGE_LIBRARY(m) { m.impl("gather", TORCH_BOX(&sige::gather)); }
