// Where the rows of a plan lie in the caller's arrays and in the partials.
#pragma once

#include <cstdint>

#include "kernels/cuda_params.hpp"

namespace trunkline::kernels::cuda {

/// An array of the plan's block.
template <class T>
__device__ inline const T* plan_array(const PlanHeader* plan, std::uint32_t offset) {
  return reinterpret_cast<const T*>(reinterpret_cast<const char*>(plan) + offset);
}

/// A row of one KV head: row of q, out and lse, and the query head.
struct RowPlace {
  std::int32_t q_index;
  std::int32_t head;
};

__device__ inline RowPlace place_of(const AttentionParams& params, std::int32_t q_index, std::int32_t row,
                                    std::int32_t kv_head) {
  return {q_index, kv_head * params.group_size + row % params.group_size};
}

template <class T>
__device__ inline T* row_of(const RowsView& view, RowPlace place) {
  return static_cast<T*>(view.data) + place.q_index * view.token_stride + place.head * view.head_stride;
}

/// Only where lse is wanted.
__device__ inline float* lse_of(const AttentionParams& params, RowPlace place) {
  return params.lse + place.q_index * params.lse_token_stride + place.head * params.lse_head_stride;
}

/// Of a partial row and KV head: its lse, and times head_dim its out.
__device__ inline std::int64_t partial_index(const AttentionParams& params, std::int32_t partial_row,
                                             std::int32_t kv_head) {
  return static_cast<std::int64_t>(partial_row) * params.num_kv_heads + kv_head;
}

}  // namespace trunkline::kernels::cuda
