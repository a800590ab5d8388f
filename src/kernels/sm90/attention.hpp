// The Hopper kernel: the whole forest in one persistent launch.
#pragma once

#include "kernels/cuda_params.hpp"

namespace trunkline::kernels::sm90 {

/// head_dim and elements this backend computes: f16 or bf16 for both, 64 or 128.
bool supports(int head_dim, Element q, Element kv);

/// The most rows of one item, per lane of the plan.
inline constexpr int max_wide_rows = 128;
inline constexpr int max_narrow_rows = 16;
/// Two CTAs that lie side by side may take a wide item of so many rows together.
inline constexpr int max_paired_rows = 2 * paired_rows_each;
static_assert(paired_rows_each == max_wide_rows);
/// Items are cut between rows at multiples of this, so that one copy of queries may bring as many.
inline constexpr int row_granule = 8;

/// Once per device and kernel, before the first launch. 0 or a cudaError_t.
int prepare(int head_dim, Element q);

/// One launch of `num_ctas` CTAs, all resident at once, on `stream` (a cudaStream_t). num_pages: of the cache, bounds
/// what the copy engine may touch. Returns a cudaError_t.
int launch(const CudaParams& params, std::int64_t num_pages, int num_ctas, void* stream);

}  // namespace trunkline::kernels::sm90
