// The matrix rate of the device: one large cuBLAS product.
#pragma once

#include <cuda_runtime_api.h>

namespace trunkline::tools::cuda {

/// Floating-point operations per second of a bfloat16 product of 8192 cubed, random data, sustained over about 0.15 s
/// on one H200. cuBLAS is looked up now, at run time. Throws unsupported when it is not installed.
double measure_matrix_rate(cudaStream_t stream);

}  // namespace trunkline::tools::cuda
