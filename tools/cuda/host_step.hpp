// `trunkline bench --backend cuda --host`: what a decode step costs the host.
#pragma once

#include "common/bench_options.hpp"

namespace trunkline::tools::cuda {

/// Lets every request of each case grow by a token per step, a new page at other steps for each, and times
/// Forest::advance and Attention::plan with the copies it enqueues; then steps of options.layers runs (32 unless given)
/// in one graph, with and without planning in between. Prints, and writes the result.
void measure_host_step(const BenchOptions& options);

}  // namespace trunkline::tools::cuda
