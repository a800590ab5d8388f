#include "exec/cuda/kernel.hpp"

#include <algorithm>

#include "exec/params.hpp"
#include "kernels/sm80/attention.hpp"
#include "kernels/sm90/attention.hpp"
#include "trunkline/error.hpp"

namespace trunkline::exec::cuda {
namespace {

using kernels::CudaParams;
using kernels::Element;

constexpr Kernel known_kernels[] = {
#if TRUNKLINE_SM90
    {.name = "sm90",
     .max_wide_rows = kernels::sm90::max_wide_rows,
     .max_narrow_rows = kernels::sm90::max_narrow_rows,
     .max_paired_rows = kernels::sm90::max_paired_rows,
     .row_granule = kernels::sm90::row_granule,
     .scheduled = true,
     .lse_bound_growth = 1.0 / 32,
     .needs = "compute capability 9.0",
     .runs_on = [](int major, int minor) { return major == 9 && minor == 0; },
     .supports = kernels::sm90::supports,
     .prepare =
         [](int head_dim, Element q) {
           const int error = kernels::sm90::prepare(head_dim, q);
           return error == 0 ? 1 : -error;
         },
     .launch = kernels::sm90::launch},
#endif
#if TRUNKLINE_SM80
    {.name = "sm80",
     .max_wide_rows = kernels::sm80::max_wide_rows,
     .max_narrow_rows = kernels::sm80::max_narrow_rows,
     .max_paired_rows = 0,
     .row_granule = 1,
     .scheduled = false,
     .lse_bound_growth = 0,
     .needs = "compute capability 8.0 or higher",
     .runs_on = [](int major, int) { return major >= 8; },
     .supports = kernels::sm80::supports,
     .prepare = kernels::sm80::prepare,
     .launch = [](const CudaParams& params, std::int64_t, int num_ctas,
                  void* stream) { return kernels::sm80::launch(params, num_ctas, stream); }},
#endif
};

std::string describe(const AttentionConfig& config) {
  return "head_dim " + std::to_string(config.head_dim) + ", q " + to_string(config.q_dtype) + ", KV " +
         to_string(config.kv_dtype);
}

// Why a kernel cannot do it; empty when it can.
std::string objection(const Kernel& kernel, const AttentionConfig& config, int major, int minor) {
  if (!kernel.runs_on(major, minor)) {
    return std::string(kernel.name) + " needs " + kernel.needs + ", the device has " + std::to_string(major) + "." +
           std::to_string(minor);
  }
  if (!kernel.supports(config.head_dim, to_element(config.q_dtype), to_element(config.kv_dtype))) {
    return std::string(kernel.name) + " does not compute " + describe(config);
  }
  return {};
}

}  // namespace

std::span<const Kernel> kernels_of_this_build() { return known_kernels; }

const Kernel& find_kernel(const std::string& name, const AttentionConfig& config, int compute_major,
                          int compute_minor) {
  std::string known, objections;
  for (const Kernel& kernel : known_kernels) {
    known.append(known.empty() ? "" : ", ").append(kernel.name);
    if (!name.empty() && name != kernel.name) continue;
    const std::string why = objection(kernel, config, compute_major, compute_minor);
    if (why.empty()) return kernel;
    objections.append(objections.empty() ? "" : "; ").append(why);
  }
  if (objections.empty()) {
    throw Error(ErrorCode::unsupported, "options.kernel", "one of " + known, "'" + name + "'");
  }
  throw Error(ErrorCode::unsupported, name.empty() ? "config" : "options.kernel",
              "what a CUDA kernel of this build computes on this device", objections);
}

DeviceSpec device_spec_of(const Kernel& kernel, int num_ctas) {
  DeviceSpec spec = DeviceSpec::h200();
  const double share = static_cast<double>(num_ctas) / spec.num_workers;
  spec.num_workers = num_ctas;
  spec.wide.max_rows = std::min(spec.wide.max_rows, kernel.max_wide_rows);
  spec.wide.row_granule = std::min(spec.wide.row_granule, spec.wide.max_rows);
  spec.narrow.max_rows = std::min(spec.narrow.max_rows, kernel.max_narrow_rows);
  spec.narrow.row_granule = std::min(spec.narrow.row_granule, spec.narrow.max_rows);
  spec.packed_rows = kernel.scheduled ? kernels::packed_rows : 1;
  spec.packed_tokens = kernel.scheduled ? kernels::packed_tokens : 0;
  if (kernel.scheduled) {
    // What all workers do together shrinks with them; fewer of them may each read faster, up to what one can.
    if (share < 1) {
      for (double* rate : {&spec.wide.flops, &spec.narrow.flops, &spec.paired_flops, &spec.partial_bandwidth}) {
        *rate *= share;
      }
      spec.read_bandwidth = std::min(spec.read_bandwidth, spec.worker_bandwidth * num_ctas);
    }
    return spec;
  }
  // The plain kernel: several CTAs share an SM, each computes one item at a time with mma.sync, and the merges are a
  // second launch. Fitted to the cold times of all four strategies on the decode grid at commit 590f64c, 264 CTAs; with
  // plans of these facts `auto` is modelled within 12 % (docs/benchmarks/hopper_decode.json).
  const double full = std::min(1.0, num_ctas / 264.0);
  spec.name += ", plain kernel";
  spec.lanes_overlap = false;
  spec.paired_flops = 0;
  spec.wide.row_granule = std::min(64, spec.wide.max_rows);
  spec.wide.flops = 240e12 * full;
  spec.wide.item_seconds = 4e-6;
  spec.wide.masked_seconds = 0;
  spec.narrow.flops = 160e12 * full;
  spec.narrow.item_seconds = 3.2e-6;
  spec.read_bandwidth = 4.5e12;
  spec.worker_bandwidth = 30e9;
  spec.partial_bandwidth = 1.9e12 * full;
  spec.merge_seconds = 0.05e-6;
  spec.source_seconds = 0;
  spec.phase_seconds = 7e-6;
  spec.launch_seconds = 4e-6;
  return spec;
}

}  // namespace trunkline::exec::cuda
