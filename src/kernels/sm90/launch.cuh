// Host side of one instance of the kernel.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/launch.cuh"
#include "kernels/sm90/instances.hpp"
#include "kernels/sm90/kernel.cuh"

namespace trunkline::kernels::sm90 {

template <class T, int head_dim, bool general>
int Instance<T, head_dim, general>::prepare() {
  return cudaFuncSetAttribute(attend_forest<T, head_dim, general>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              sizeof(SharedMemory<head_dim>));
}

template <class T, int head_dim, bool general>
int Instance<T, head_dim, general>::launch(const Arguments& args, const Maps& maps, int num_ctas, void* stream) {
  const cuda::LaunchShape shape{.grid = dim3(static_cast<unsigned>(num_ctas)),
                                .block = dim3(num_threads),
                                .shared_bytes = sizeof(SharedMemory<head_dim>),
                                .persistent = true,
                                .cluster = num_ctas % 2 == 0 ? 2 : 1};
  return cuda::launch(attend_forest<T, head_dim, general>, shape, stream, args, maps);
}

}  // namespace trunkline::kernels::sm90
