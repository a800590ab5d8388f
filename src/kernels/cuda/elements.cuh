// The 16-bit element types of device code: names, packing, and stores of f32 rows.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/params.hpp"

namespace trunkline::kernels::cuda {

template <Element>
struct ElementType;
template <>
struct ElementType<Element::f16> {
  using type = __half;
};
template <>
struct ElementType<Element::bf16> {
  using type = __nv_bfloat16;
};

/// `low` in the lower half; rounded to nearest even.
template <class T>
__device__ inline std::uint32_t pack(float low, float high);
template <>
__device__ inline std::uint32_t pack<__half>(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return reinterpret_cast<const std::uint32_t&>(pair);
}
template <>
__device__ inline std::uint32_t pack<__nv_bfloat16>(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const std::uint32_t&>(pair);
}

/// Two neighbouring elements at any address, the first in the lower half.
__device__ inline std::uint32_t load_unaligned_pair(const std::uint16_t* from) {
  return from[0] | static_cast<std::uint32_t>(from[1]) << 16;
}

/// N (2 or 4) neighbouring elements; one store where the address allows it.
template <class T, int N>
__device__ inline void store_rounded(T* destination, const float (&values)[N]) {
  static_assert(sizeof(T) == 2 && (N == 2 || N == 4));
  std::uint32_t words[N / 2];
  for (int i = 0; i < N / 2; ++i) words[i] = pack<T>(values[2 * i], values[2 * i + 1]);
  if (reinterpret_cast<std::uintptr_t>(destination) % (N * sizeof(T)) == 0) {
    if constexpr (N == 2) {
      *reinterpret_cast<std::uint32_t*>(destination) = words[0];
    } else {
      *reinterpret_cast<uint2*>(destination) = make_uint2(words[0], words[1]);
    }
    return;
  }
  auto* halves = reinterpret_cast<std::uint16_t*>(destination);
  for (int i = 0; i < N; ++i) halves[i] = static_cast<std::uint16_t>(words[i / 2] >> (16 * (i % 2)));
}

}  // namespace trunkline::kernels::cuda
