// Where the result of a unit's row goes: to its partial, or straight to out and lse.
#pragma once

#include <cstdint>

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/rows.cuh"
#include "kernels/sm90/layout.cuh"

namespace trunkline::kernels::sm90 {

/// Row `row` of a unit whose partials begin at partial_begin, unless that is negative; its place among the caller's.
template <class T>
__device__ __forceinline__ RowTarget target_of(const AttentionParams& params, int kv_head, int partial_begin, int row,
                                               int q_index, int head) {
  if (partial_begin >= 0) {
    const std::int64_t index = cuda::partial_index(params, partial_begin + row, kv_head);
    return {params.partial_out + index * params.head_dim, params.partial_lse + index};
  }
  const cuda::RowPlace place{q_index, head};
  return {cuda::row_of<T>(params.out, place), params.lse == nullptr ? nullptr : cuda::lse_of(params, place)};
}

inline constexpr float log_2 = 0.693147181f;

/// The log-sum-exp of scores whose exponentials base 2, less the reference, sum to `sum`. `to` may be null.
__device__ __forceinline__ void write_lse(float* to, float reference, float sum) {
  if (to != nullptr) *to = sum == 0 ? -INFINITY : (reference + ptx::log2(sum)) * log_2;
}

/// An element of a partial, and of out.
__device__ __forceinline__ float as_it_is(float value) { return value; }
template <class T>
__device__ __forceinline__ std::uint16_t rounded_bits(float value) {
  return static_cast<std::uint16_t>(cuda::pack<T>(value, 0));
}

/// Two elements, in one 4-byte store where `aligned`.
template <bool aligned, class T>
__device__ __forceinline__ void store_pair(T* to, float low, float high) {
  const std::uint32_t pair = cuda::pack<T>(low, high);
  if constexpr (aligned) {
    *reinterpret_cast<std::uint32_t*>(to) = pair;
  } else {
    auto* const halves = reinterpret_cast<std::uint16_t*>(to);
    halves[0] = static_cast<std::uint16_t>(pair);
    halves[1] = static_cast<std::uint16_t>(pair >> 16);
  }
}

}  // namespace trunkline::kernels::sm90
