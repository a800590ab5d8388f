// The emulated device's, in place of src/kernels/cuda/launch.cuh.
#pragma once

#include <cuda_runtime.h>

#include <type_traits>

#include "emulator/runtime.hpp"
#include "kernels/cuda/launch_shape.hpp"

namespace trunkline::kernels::cuda {

template <class... Parameters>
cudaError_t launch(void (*kernel)(Parameters...), const LaunchShape& shape, void* stream,
                   const std::type_identity_t<Parameters>&... arguments) {
  const emulator::Launch launch{.grid = {shape.grid.x, shape.grid.y, shape.grid.z},
                                .block = {shape.block.x, shape.block.y, shape.block.z},
                                .dynamic_bytes = shape.shared_bytes,
                                .cooperative = shape.persistent};
  return emulator::enqueue_launch(static_cast<cudaStream_t>(stream), launch, [=] { kernel(arguments...); });
}

}  // namespace trunkline::kernels::cuda
