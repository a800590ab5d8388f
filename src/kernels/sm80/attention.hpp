// The plain CUDA kernel: any GPU from Ampere on.
#pragma once

#include "kernels/cuda_params.hpp"

namespace trunkline::kernels::sm80 {

/// head_dim and elements this backend computes: f16 or bf16 for both, any multiple of 16 up to 256. It is compiled for
/// 64, 128 and 256, and one in between costs the arithmetic of the next, not its bytes.
bool supports(int head_dim, Element q, Element kv);

/// The most rows of one item, per lane of the plan.
inline constexpr int max_wide_rows = 128;
inline constexpr int max_narrow_rows = 16;

/// Once per device and kernel, before the first launch: raises shared-memory limits and returns how many CTAs of this
/// kernel one SM holds. Negative: minus a cudaError_t.
int prepare(int head_dim, Element q);

/// Launches the items and then the merges on `stream` (a cudaStream_t). `num_ctas`: of the items' grid. Returns a
/// cudaError_t.
int launch(const CudaParams& params, int num_ctas, void* stream);

}  // namespace trunkline::kernels::sm80
