// The part of GELU that CPU and CUDA share: a polynomial in place of erfc.
#pragma once

#include "common/types.h"

namespace sige {

// erfc(z) e^(z^2) / 2 for z >= 0, from t = 1 / (1 + 0.47 z): a polynomial, fitted to half a unit in the last place of
// GELU. `Float` is a float or a vector of floats.
template <typename Float>
static SIGE_HOST_DEVICE inline Float scaled_erfc(Float t) {
  Float p = t * 0x1.680e44p-5f - 0x1.a92c74p-3f;
  p = p * t + 0x1.2e363ep-2f;
  p = p * t - 0x1.9083e2p-5f;
  p = p * t + 0x1.3dcf5p-3f;
  p = p * t + 0x1.0bb8c2p-3f;
  p = p * t + 0x1.0ce636p-3f;
  return p * t + 0x1.bc7112p-13f;
}

}  // namespace sige
