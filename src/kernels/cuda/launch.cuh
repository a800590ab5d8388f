// How kernels are launched.
#pragma once

#include <cuda_runtime.h>

#include <type_traits>

#include "kernels/cuda/launch_shape.hpp"

namespace trunkline::kernels::cuda {

/// `stream` is a cudaStream_t.
template <class... Parameters>
cudaError_t launch(void (*kernel)(Parameters...), const LaunchShape& shape, void* stream,
                   const std::type_identity_t<Parameters>&... arguments) {
  cudaLaunchAttribute attributes[3] = {};
  attributes[0].id = cudaLaunchAttributeCooperative;
  attributes[0].val.cooperative = 1;
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  attributes[2].id = cudaLaunchAttributeClusterDimension;
  attributes[2].val.clusterDim = {static_cast<unsigned>(shape.cluster), 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = attributes;
  config.numAttrs = shape.persistent ? 3 : 0;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

}  // namespace trunkline::kernels::cuda
