// The kernels of one element type and head_dim, one translation unit per element type.
#pragma once

#include "kernels/cuda_params.hpp"

namespace trunkline::kernels::sm80 {

/// D: the compiled head_dim, 64, 128 or 256. See attention.hpp for the meaning.
template <Element E, int D>
struct Kernels {
  static int prepare();
  static int launch(const CudaParams& params, int num_ctas, void* stream);
};

}  // namespace trunkline::kernels::sm80
