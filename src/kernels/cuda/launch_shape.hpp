// What a launch asks of the device beside its kernel and arguments.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

namespace trunkline::kernels::cuda {

struct LaunchShape {
  dim3 grid, block;
  std::size_t shared_bytes = 0;  // dynamic
  /// All CTAs are resident at once, as they wait for each other, and may begin before the launch before has ended.
  bool persistent = false;
  int cluster = 1;  // CTAs side by side that reach each other's shared memory
};

}  // namespace trunkline::kernels::cuda
