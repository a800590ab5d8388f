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
  return emulator::enqueue_launch(static_cast<cudaStream_t>(stream), shape, [=] { kernel(arguments...); });
}

}  // namespace trunkline::kernels::cuda
