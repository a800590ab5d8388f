// The matrix rate of the device: one large cuBLAS product.
#pragma once

#include <cuda_runtime_api.h>

namespace trunkline::tools::cuda {

/// Floating-point operations per second of bfloat16 products of 8192 cubed, random data.
struct MatrixRate {
  double burst;  // the fastest of several runs of products: what a kernel shorter than the power limit's reaction gets
  double sustained;  // over all of them, about 0.15 s on one H200
};

/// cuBLAS is looked up now, at run time. Throws unsupported when it is not installed.
MatrixRate measure_matrix_rate(cudaStream_t stream);

}  // namespace trunkline::tools::cuda
