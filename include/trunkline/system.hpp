// What this build and this machine have.
#pragma once

#include <string>
#include <vector>

#include "trunkline/config.hpp"

namespace trunkline {

/// "0.1.0"
const char* version() noexcept;

struct Backend {
  std::string name;        // "cpu", "cuda"
  bool built = false;      // in this build
  bool available = false;  // and usable on this machine
  std::string detail;      // why not, or what it found
};
/// All backends the project knows, best first, whether or not this build has them.
std::vector<Backend> backends();

/// SIMD targets of the CPU backend that this build has and this machine runs, best first, e.g. "avx3", "avx2", "sse2".
std::vector<std::string> simd_targets();

/// Measures a DeviceSpec. CPU, with `num_threads` threads: read bandwidth of memory, the rates of the kernels (bf16,
/// head_dim 128, best SIMD target), and fixed costs; a few seconds and up to 1 GiB of memory. CUDA, by running the
/// best kernel on synthetic batches in 1 GiB of device memory: read bandwidth of all workers and of one, the matrix
/// rate of wide items, the fixed costs of a launch and of a narrow item; the rest is as shipped, and num_threads is not
/// used. Throws invalid_argument for num_threads, unsupported for a device this build does not have, device_error.
DeviceSpec calibrate(Device device, int num_threads);

}  // namespace trunkline
