#include "trunkline/system.hpp"

#include <thread>

#include "exec/cuda/backend.hpp"
#include "kernels/cpu/kernels.hpp"

namespace trunkline {

const char* version() noexcept { return TRUNKLINE_VERSION; }

std::vector<std::string> simd_targets() {
  std::vector<std::string> names;
  for (const kernels::cpu::Target& target : kernels::cpu::targets()) names.emplace_back(target.name);
  return names;
}

std::vector<Backend> backends() {
  std::string targets;
  for (const std::string& name : simd_targets()) targets.append(targets.empty() ? "" : ", ").append(name);
  return {exec::cuda::describe(),
          {"cpu", true, true,
           std::to_string(std::thread::hardware_concurrency()) + " hardware threads; SIMD targets " + targets}};
}

}  // namespace trunkline
