// Partials to results, by one warp: out = sum_i w_i out_i and lse = log sum_i exp(lse_i), with w_i = exp(lse_i - lse),
// over the sources in the plan's order.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/rows.cuh"

namespace trunkline::kernels::cuda {
namespace merging {

inline constexpr unsigned full_warp = 0xFFFFFFFFu;

template <int N>
__device__ inline void load_partial(float (&values)[N], const float* source) {
  // Around L1: the partials may have been written during this launch, by other SMs.
  if constexpr (N == 4) {
    const float4 loaded = __ldcg(reinterpret_cast<const float4*>(source));
    values[0] = loaded.x, values[1] = loaded.y, values[2] = loaded.z, values[3] = loaded.w;
  } else {
    const float2 loaded = __ldcg(reinterpret_cast<const float2*>(source));
    values[0] = loaded.x, values[1] = loaded.y;
  }
}

/// exp(value - most), 0 where value is -inf.
__device__ inline float weight_of(float value, float most) { return value == -INFINITY ? 0.0f : expf(value - most); }

/// Rows [row, row + Rows) of a merge, those from row_end on left out. Sources are taken 32 at a time, one per lane.
template <class T, int D, int Rows>
__device__ void merge_some(const AttentionParams& params, const QueryToken* query_tokens, const Merge& merge,
                           const std::int32_t* sources, std::int32_t kv_head, int row, int row_end) {
  constexpr int vector = D >= 128 ? 4 : 2;  // floats that a lane loads at once
  constexpr int parts = D / (32 * vector);  // of a row
  constexpr int sources_at_once = 4;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int num_sources = merge.num_sources;

  std::int32_t partial = 0;  // of the lane's source, the merge's first row
  float lse[Rows];           // of the lane's source; -inf for a lane without one
  const auto load_lse = [&](int first) {
    partial = sources[min(first + lane, num_sources - 1)];
#pragma unroll
    for (int r = 0; r < Rows; ++r) {
      const std::int64_t index = partial_index(params, partial + min(row + r, row_end - 1), kv_head);
      lse[r] = first + lane < num_sources ? __ldcg(params.partial_lse + index) : -INFINITY;
    }
  };

  float most[Rows], sum[Rows];
  for (int r = 0; r < Rows; ++r) most[r] = -INFINITY, sum[r] = 0.0f;
  for (int first = 0; first < num_sources; first += 32) {
    load_lse(first);
#pragma unroll
    for (int r = 0; r < Rows; ++r) {
      const float higher = fmaxf(most[r], lse[r]);
      sum[r] = sum[r] * weight_of(most[r], higher) + weight_of(lse[r], higher);
      most[r] = higher;
    }
  }
#pragma unroll
  for (int r = 0; r < Rows; ++r) {
    float highest = most[r];
    for (int step = 16; step > 0; step /= 2) highest = fmaxf(highest, __shfl_xor_sync(full_warp, highest, step));
    sum[r] *= weight_of(most[r], highest);
    for (int step = 16; step > 0; step /= 2) sum[r] += __shfl_xor_sync(full_warp, sum[r], step);
    most[r] = highest;
  }

  float out[Rows][parts][vector] = {};
  for (int first = 0; first < num_sources; first += 32) {
    if (num_sources > 32) load_lse(first);
    float weight[Rows];
#pragma unroll
    for (int r = 0; r < Rows; ++r) weight[r] = sum[r] == 0.0f ? 0.0f : weight_of(lse[r], most[r]) / sum[r];
    const int count = min(32, num_sources - first);
    for (int s = 0; s < count; s += sources_at_once) {
      float loaded[sources_at_once][Rows][parts][vector];
#pragma unroll
      for (int i = 0; i < sources_at_once; ++i) {
        const std::int32_t from = __shfl_sync(full_warp, partial, s + i);
#pragma unroll
        for (int r = 0; r < Rows; ++r) {
          const std::int64_t index = partial_index(params, from + min(row + r, row_end - 1), kv_head);
#pragma unroll
          for (int p = 0; p < parts; ++p) {
            const int column = (p * 32 + lane) * vector;
            if (column < params.head_dim) {
              load_partial(loaded[i][r][p], params.partial_out + index * params.head_dim + column);
            }
          }
        }
      }
#pragma unroll
      for (int i = 0; i < sources_at_once; ++i) {
#pragma unroll
        for (int r = 0; r < Rows; ++r) {
          const float factor = __shfl_sync(full_warp, weight[r], s + i);
          if (factor == 0.0f) continue;  // no token: its out is not used
#pragma unroll
          for (int p = 0; p < parts; ++p) {
#pragma unroll
            for (int v = 0; v < vector; ++v) out[r][p][v] += factor * loaded[i][r][p][v];
          }
        }
      }
    }
  }

#pragma unroll
  for (int r = 0; r < Rows; ++r) {
    if (row + r >= row_end) break;
    const std::int32_t plan_row = merge.row_begin + row + r;
    const RowPlace place = place_of(params, query_tokens[plan_row / params.group_size].q_index, plan_row, kv_head);
#pragma unroll
    for (int p = 0; p < parts; ++p) {
      const int column = (p * 32 + lane) * vector;
      if (column < params.head_dim) store_rounded(row_of<T>(params.out, place) + column, out[r][p]);
    }
    if (params.lse != nullptr && lane == 0) *lse_of(params, place) = most[r] + logf(sum[r]);
  }
}

}  // namespace merging

/// One warp, all its lanes: rows [row_begin, row_end) of `merge`, counted from its first row, for one KV head.
///   T         of out;  D  at least head_dim, one of 64, 128, 256; head_dim is a multiple of 4
///   sources   of this merge: Merge::num_sources entries
/// Writes out and, where wanted, lse. Without a token out = 0 and lse = -inf; a source without tokens has weight 0 and
/// its out, whatever it holds, is not used. Reads the partials from L2.
template <class T, int D>
__device__ inline void merge_rows(const AttentionParams& params, const QueryToken* query_tokens, const Merge& merge,
                                  const std::int32_t* sources, std::int32_t kv_head, int row_begin, int row_end) {
  constexpr int rows_at_once = D <= 128 ? 4 : 2;  // 64 registers of partials on their way
  int row = row_begin;
  for (; row + 1 < row_end; row += rows_at_once) {
    merging::merge_some<T, D, rows_at_once>(params, query_tokens, merge, sources, kv_head, row, row_end);
  }
  if (row < row_end) merging::merge_some<T, D, 1>(params, query_tokens, merge, sources, kv_head, row, row_end);
}

}  // namespace trunkline::kernels::cuda
