// Merging what was left partial, after all CTAs have met: out = sum_i w_i out_i with w_i = exp(lse_i - lse), over the
// sources in the plan's order. A warp takes a few rows of one merge and KV head, whose partials lie side by side: where
// they are is looked up once, and those of the next row are under way while it sums this one.
#pragma once

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/rows.cuh"
#include "kernels/sm90/arguments.hpp"
#include "kernels/sm90/ptx.cuh"

namespace trunkline::kernels::sm90 {

template <class T, int head_dim>
class MergeRows {
  static constexpr int vector = head_dim / 32;  // elements of a row that a lane has
  static constexpr int ahead = 8;               // sources under way at once

 public:
  /// By warp `warp` of `num_warps` in the launch. Looks up its first rows.
  __device__ MergeRows(const Arguments& args, int warp, int num_warps) : args_(args), next_(warp), step_(num_warps) {
    const int most_rows = args.params.plan->most_merge_rows;
    const int lists = args.params.plan->num_merges * args.params.attention.num_kv_heads;
    rows_ = min((lists * most_rows + num_warps - 1) / num_warps, most_rows);
    pieces_ = (most_rows + rows_ - 1) / rows_;
    count_ = lists * pieces_;
    find();
  }

  /// Once the partials are there.
  __device__ void run() {
    while (next_ < count_) {
      const Piece piece = found_;
      next_ += step_;
      find();
      Values values;
#pragma unroll 1
      for (int row = -1; row < piece.num_rows; ++row) {
        Values next_values;
        if (row + 1 < piece.num_rows) load(piece, row + 1, 0, next_values);
        if (row >= 0) sum(piece, row, values);
        values = next_values;
      }
    }
  }

 private:
  /// Rows of one merge and KV head.
  struct Piece {
    int row, num_rows, kv_head;  // of the plan
    int num_sources, source_begin;
    int offset;   // of the first row in its merge
    int source;   // lane l: partial row of the merge's first row in source l of those at hand
    int q_index;  // lane l: of row l
  };
  struct Values {
    float lse;  // lane l: of source l of those at hand
    float out[ahead][vector];
  };

  /// Looks up what next_ is: rows first, then KV heads, then merges.
  __device__ __forceinline__ void find() {
    found_.num_rows = 0;
    if (next_ >= count_) return;
    const CudaParams& params = args_.params;
    const int list = next_ / pieces_, merge = list / params.attention.num_kv_heads;
    const auto* const merges = cuda::plan_array<Merge>(params.plan, params.plan->merges);
    const int4 entry = __ldg(reinterpret_cast<const int4*>(merges + merge));
    const Merge at{entry.x, entry.y, entry.z, entry.w};
    found_.offset = (next_ - list * pieces_) * rows_;
    if (found_.offset >= at.num_rows) return;
    found_.row = at.row_begin + found_.offset;
    found_.num_rows = min(rows_, at.num_rows - found_.offset);
    found_.kv_head = list - merge * params.attention.num_kv_heads;
    found_.num_sources = at.num_sources;
    found_.source_begin = at.source_begin;
    found_.source = source(found_, 0);
    const auto* const tokens = cuda::plan_array<QueryToken>(params.plan, params.plan->query_tokens);
    const int row = found_.row + min(lane(), found_.num_rows - 1);
    found_.q_index = __ldg(&tokens[args_.group.quotient(row)].q_index);
  }

  static __device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x % 32); }

  /// This lane's of sources [first, first + 32); after the last one, anything.
  __device__ __forceinline__ int source(const Piece& piece, int first) const {
    const auto* const sources = cuda::plan_array<std::int32_t>(args_.params.plan, args_.params.plan->merge_sources);
    return first + lane() < piece.num_sources ? __ldg(sources + piece.source_begin + first + lane()) : 0;
  }

  /// Of sources [first, first + ahead), and the log-sum-exps of all 32 where these are the first of them. Around L1:
  /// other SMs wrote them during this launch.
  __device__ __forceinline__ void load(const Piece& piece, int row, int first, Values& values) const {
    const AttentionParams& a = args_.params.attention;
    const int mine = (piece.source + piece.offset + row) * a.num_kv_heads + piece.kv_head;  // partial_index
    if (first % 32 == 0) {
      values.lse = first + lane() < piece.num_sources ? __ldcg(a.partial_lse + mine) : -INFINITY;
    }
    const float* const column = a.partial_out + lane() * vector;
#pragma unroll
    for (int s = 0; s < ahead; ++s) {
      const std::int64_t from = __shfl_sync(~0u, mine, (first + s) % 32);
#pragma unroll
      for (int v = 0; v < vector; ++v) values.out[s][v] = 0;
      if (first + s >= piece.num_sources) continue;
      if constexpr (vector == 4) {
        const float4 four = __ldcg(reinterpret_cast<const float4*>(column + from * head_dim));
        values.out[s][0] = four.x, values.out[s][1] = four.y, values.out[s][2] = four.z, values.out[s][3] = four.w;
      } else {
        const float2 two = __ldcg(reinterpret_cast<const float2*>(column + from * head_dim));
        values.out[s][0] = two.x, values.out[s][1] = two.y;
      }
    }
  }

  /// `values` are those of the first sources. A source without tokens holds zeros and weighs nothing.
  __device__ __forceinline__ void sum(Piece piece, int row, Values& values) const {
    constexpr float log2_e = 1.44269504f;
    const AttentionParams& a = args_.params.attention;
    float most = -INFINITY, total = 0, weight = 0, out[vector] = {};
#pragma unroll 1
    for (int first = 0; first < piece.num_sources; first += ahead) {
      if (first > 0) {
        if (first % 32 == 0) piece.source = source(piece, first);
        load(piece, row, first, values);
      }
      if (first % 32 == 0) {  // every lane weighs one of the next 32
        float higher = fmaxf(most, values.lse);
#pragma unroll
        for (int step = 16; step > 0; step /= 2) higher = fmaxf(higher, __shfl_xor_sync(~0u, higher, step));
        const float reference = higher == -INFINITY ? 0 : higher;
        weight = ptx::exp2((values.lse - reference) * log2_e);
        const float before = ptx::exp2((most - reference) * log2_e);
        float sums = weight;
#pragma unroll
        for (int step = 16; step > 0; step /= 2) sums += __shfl_xor_sync(~0u, sums, step);
        total = total * before + sums;
        most = higher;
#pragma unroll
        for (int v = 0; v < vector; ++v) out[v] *= before;
      }
#pragma unroll
      for (int s = 0; s < ahead; ++s) {
        const float factor = __shfl_sync(~0u, weight, (first + s) % 32);
#pragma unroll
        for (int v = 0; v < vector; ++v) out[v] += factor * values.out[s][v];
      }
    }
    const float factor = total > 0 ? 1 / total : 0;
#pragma unroll
    for (int v = 0; v < vector; ++v) out[v] *= factor;
    const cuda::RowPlace place{__shfl_sync(~0u, piece.q_index, row),
                               piece.kv_head * a.group_size + args_.group.remainder(piece.row + row)};
    cuda::store_rounded(cuda::row_of<T>(a.out, place) + lane() * vector, out);
    if (a.lse != nullptr && lane() == 0) *cuda::lse_of(a, place) = most + logf(total);
  }

  const Arguments& args_;
  int next_, step_, rows_, pieces_, count_;
  Piece found_;  // next_'s
};

}  // namespace trunkline::kernels::sm90
