// The CUDA kernels by name: what each needs, and how it is started.
#pragma once

#include <span>
#include <string>

#include "kernels/cuda_params.hpp"
#include "trunkline/config.hpp"

namespace trunkline::exec::cuda {

struct Kernel {
  const char* name;
  int max_wide_rows, max_narrow_rows;
  int max_paired_rows;      // of a wide item that two CTAs take together; 0: they do not
  int row_granule;          // items are cut between rows at multiples of this
  bool scheduled;           // one CTA per worker of the plan, which take what the plan's schedule says
  double lse_bound_growth;  // with each element of head_dim (Attention::lse_bound_factor)
  const char* needs;
  bool (*runs_on)(int compute_major, int compute_minor);
  bool (*supports)(int head_dim, kernels::Element q, kernels::Element kv);
  /// CTAs that one SM holds; negative: minus a cudaError_t.
  int (*prepare)(int head_dim, kernels::Element q);
  /// Returns a cudaError_t.
  int (*launch)(const kernels::CudaParams& params, std::int64_t num_pages, int num_ctas, void* stream);
};

/// Best first.
std::span<const Kernel> kernels_of_this_build();

/// The best kernel that runs on a device of this compute capability and computes the config; with a name, that one or
/// none. Throws unsupported.
const Kernel& find_kernel(const std::string& name, const AttentionConfig& config, int compute_major, int compute_minor);

/// Shipped numbers to plan with for a kernel whose grid has num_ctas CTAs.
DeviceSpec device_spec_of(const Kernel& kernel, int num_ctas);

}  // namespace trunkline::exec::cuda
