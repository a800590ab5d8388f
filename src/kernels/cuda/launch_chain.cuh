// Programmatic dependent launch: a launch that begins before the one before it on its stream has ended.
#pragma once

namespace trunkline::kernels::cuda {

/// The launch after this one may start when all CTAs are here. Nothing on devices before Hopper.
__device__ __forceinline__ void let_next_launch_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace trunkline::kernels::cuda
