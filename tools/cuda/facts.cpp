#include "cuda/facts.hpp"

#include <fmt/core.h>

#include "cuda/runtime.hpp"

namespace trunkline::tools::cuda {
namespace {

/// 13000 is "13.0".
std::string version_text(int version) { return fmt::format("{}.{}", version / 1000, version % 1000 / 10); }

}  // namespace

Json gpu_json() {
  cudaDeviceProp properties{};
  int driver = 0, runtime = 0;
  check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  check(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
  check(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
  return {{"name", properties.name},
          {"compute_capability", fmt::format("{}.{}", properties.major, properties.minor)},
          {"sms", properties.multiProcessorCount},
          {"l2_bytes", properties.l2CacheSize},
          {"memory_bytes", properties.totalGlobalMem},
          {"cuda_driver", version_text(driver)},
          {"cuda_runtime", version_text(runtime)}};
}

}  // namespace trunkline::tools::cuda
