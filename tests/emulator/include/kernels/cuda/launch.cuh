// The emulated device's, in place of src/kernels/cuda/launch.cuh.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <type_traits>

#include "emulator/runtime.hpp"

namespace trunkline::kernels::cuda {

struct LaunchShape {
  dim3 grid, block;
  std::size_t shared_bytes = 0;
  bool persistent = false;
};

template <class... Parameters>
cudaError_t launch(void (*kernel)(Parameters...), const LaunchShape& shape, void* stream,
                   const std::type_identity_t<Parameters>&... arguments) {
  const emulator::Launch launch{{shape.grid.x, shape.grid.y, shape.grid.z},
                                {shape.block.x, shape.block.y, shape.block.z},
                                shape.shared_bytes,
                                shape.persistent};
  return emulator::enqueue(static_cast<cudaStream_t>(stream),
                           [=] { emulator::run(launch, [&] { kernel(arguments...); }); });
}

}  // namespace trunkline::kernels::cuda
