// `trunkline bench --backend cuda`.
#pragma once

#include "common/bench_options.hpp"

namespace trunkline::tools::cuda {

/// Measures every case with every kernel and strategy, prints, and writes the result. Throws as the command does.
void run_bench(const BenchOptions& options);

}  // namespace trunkline::tools::cuda
