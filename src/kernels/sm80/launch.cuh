// Host side of the kernels of one element type: shared memory, alignment, the two launches.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/launch.cuh"
#include "kernels/sm80/attention.cuh"
#include "kernels/sm80/launch.hpp"

namespace trunkline::kernels::sm80 {

/// The deepest ring that leaves room for ctas_per_sm CTAs; with less than two stages, the deepest for one CTA.
/// 0: none fits, or `error` is set.
template <class T, int D>
int num_stages(cudaError_t& error) {
  int device = 0, per_sm = 0, per_cta = 0, reserved = 0;
  if (error = cudaGetDevice(&device); error != cudaSuccess) return 0;
  const auto read = [&](int& value, cudaDeviceAttr attribute) {
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&value, attribute, device);
  };
  read(per_sm, cudaDevAttrMaxSharedMemoryPerMultiprocessor);
  read(per_cta, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  read(reserved, cudaDevAttrReservedSharedMemoryPerBlock);
  if (error != cudaSuccess) return 0;
  constexpr int beside = Sizes<D>::q_bytes + static_cast<int>(sizeof(Shared<T, D>));
  const int of_several = (per_sm / Sizes<D>::ctas_per_sm - reserved - beside) / Sizes<D>::stage_bytes;
  const int of_one = (per_cta - beside) / Sizes<D>::stage_bytes;
  return std::clamp(of_several >= 2 ? of_several : of_one, 0, Sizes<D>::max_stages);
}

template <int D>
int ring_bytes(int stages) {
  return stages * Sizes<D>::stage_bytes + Sizes<D>::q_bytes;
}

/// Are all rows on 16 bytes?
inline bool is_aligned(const void* data, std::int64_t stride0, std::int64_t stride1, std::int64_t stride2 = 0) {
  return reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && stride0 % 8 == 0 && stride1 % 8 == 0 && stride2 % 8 == 0;
}

template <Element E, int D>
int Kernels<E, D>::prepare() {
  using T = typename cuda::ElementType<E>::type;
  cudaError_t error = cudaSuccess;
  const int stages = num_stages<T, D>(error);
  if (error != cudaSuccess) return -error;
  if (stages < Sizes<D>::min_stages) return -cudaErrorInvalidConfiguration;
  const auto kernel = attend_items<T, D>;
  error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, ring_bytes<D>(stages));
  if (error != cudaSuccess) return -error;
  error = cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
  if (error != cudaSuccess) return -error;
  int ctas = 0;
  error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&ctas, kernel, num_threads, ring_bytes<D>(stages));
  return error == cudaSuccess ? ctas : -error;
}

template <Element E, int D>
int Kernels<E, D>::launch(const CudaParams& params, int num_ctas, void* stream) {
  using T = typename cuda::ElementType<E>::type;
  const AttentionParams& attention = params.attention;
  cudaError_t error = cudaSuccess;
  const int stages = num_stages<T, D>(error);
  if (error != cudaSuccess) return error;
  const auto plane_aligned = [](const KvPlane& plane) {
    return is_aligned(plane.data, plane.page_stride, plane.token_stride, plane.head_stride);
  };
  const Config config{.num_stages = stages,
                      .q_aligned = is_aligned(attention.q.data, attention.q.token_stride, attention.q.head_stride),
                      .kv_aligned = plane_aligned(attention.k) && plane_aligned(attention.v)};
  cuda::LaunchShape shape{dim3(static_cast<unsigned>(num_ctas)), dim3(num_threads),
                          static_cast<std::size_t>(ring_bytes<D>(stages))};
  error = cuda::launch(attend_items<T, D>, shape, stream, params, config);
  if (error != cudaSuccess) return error;
  shape.shared_bytes = 0;
  return cuda::launch(merge_partials<T, D>, shape, stream, params);
}

}  // namespace trunkline::kernels::sm80
