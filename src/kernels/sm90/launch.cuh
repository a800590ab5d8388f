// Host side of one instance of the kernel.
#pragma once

#include <cuda_runtime.h>

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
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeCooperative;  // all CTAs are resident: they wait for each other
  attributes[0].val.cooperative = 1;
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(num_ctas));
  config.blockDim = dim3(num_threads);
  config.dynamicSmemBytes = sizeof(SharedMemory<head_dim>);
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = attributes;
  config.numAttrs = 2;
  return cudaLaunchKernelEx(&config, attend_forest<T, head_dim, general>, args, maps);
}

}  // namespace trunkline::kernels::sm90
