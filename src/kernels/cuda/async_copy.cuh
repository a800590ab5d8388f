// cp.async: 16-byte copies from global to shared memory that the issuing thread does not wait for.
#pragma once

#include <cstdint>

namespace trunkline::kernels::cuda {

/// 16 bytes, both addresses 16-byte aligned; past L1. With `read` false nothing is read and zeros are written.
__device__ inline void copy_async_16(std::uint32_t destination, const void* source, bool read) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(destination), "l"(source),
               "r"(read ? 16 : 0)
               : "memory");
}

/// Closes the group of the copies issued since the last call.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int Pending>
__device__ inline void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

/// Waits until at most `pending` of this thread's groups are on their way, the latest ones; the number is an immediate
/// of the instruction, so more than 5 wait like 5.
__device__ inline void wait_copies(int pending) {
  if (pending == 0) return wait_copies<0>();
  if (pending == 1) return wait_copies<1>();
  if (pending == 2) return wait_copies<2>();
  if (pending == 3) return wait_copies<3>();
  if (pending == 4) return wait_copies<4>();
  wait_copies<5>();
}

}  // namespace trunkline::kernels::cuda
