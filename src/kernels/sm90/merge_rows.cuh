// Merging what was left partial, after all CTAs have met: out = sum_i w_i out_i with w_i = exp(lse_i - lse), over the
// sources in the plan's order. A warp takes a few rows of one merge and KV head, whose partials lie side by side: where
// they are is looked up once, and those of the next row are under way while it sums this one.
#pragma once

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/rows.cuh"
#include "kernels/sm90/arguments.hpp"
#include "kernels/sm90/ptx.cuh"

namespace trunkline::kernels::sm90 {

template <class T, int head_dim, bool general>
class MergeRows {
  static constexpr int vector = head_dim / 32;  // elements of a row that a lane has
  static constexpr int ahead = 8;               // sources under way at once

 public:
  /// By warp `warp` of `num_warps` in the launch. Looks up its first rows.
  __device__ MergeRows(const Arguments& args, int warp, int num_warps) : args_(args), next_(warp), step_(num_warps) {
    const int most_rows = args.params.plan->most_merge_rows;
    const int lists = args.params.plan->num_merges * args.params.attention.num_kv_heads;
    rows_ = min((lists * most_rows + num_warps - 1) / num_warps, most_rows);
    pieces_ = max((most_rows + rows_ - 1) / max(rows_, 1), 1);
    count_ = lists * pieces_;
    find();
  }

  /// Once the partials are there.
  __device__ __forceinline__ void run() {
#pragma unroll 1
    while (next_ < count_) {
      const Piece piece = found_;
      next_ += step_;
      find();
      merge(piece);
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
  struct Sums {
    float most, total, weight;  // weight: lane l, of source l of those at hand
    float out[vector];
  };

  static __device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x % 32); }

  /// Looks up what next_ is: rows first, then KV heads, then merges.
  __device__ __forceinline__ void find() {
    found_.num_rows = 0;
    if (next_ >= count_) return;
    const CudaParams& params = args_.params;
    const int list = static_cast<int>(static_cast<unsigned>(next_) / static_cast<unsigned>(pieces_));
    const int merge = args_.heads.quotient(list);
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

  /// This lane's of sources [first, first + 32); after the last one, anything.
  __device__ __forceinline__ int source(const Piece& piece, int first) const {
    const auto* const sources = cuda::plan_array<std::int32_t>(args_.params.plan, args_.params.plan->merge_sources);
    return first + lane() < piece.num_sources ? __ldg(sources + piece.source_begin + first + lane()) : 0;
  }

  /// Row by row, `ahead` sources at a time; the next ones are under way meanwhile.
  __device__ __forceinline__ void merge(Piece piece) const {
    const int blocks = max((piece.num_sources + ahead - 1) / ahead, 1);
    Values values;
    Sums sums;
    int row = 0, first = -ahead, next_row = 0, next_first = 0;
#pragma unroll 1
    for (int step = -1; step < piece.num_rows * blocks; ++step) {
      Values next;
      if (next_row < piece.num_rows) load(piece, next_row, next_first, next);
      if (step >= 0) {
        add(first, values, sums);
        if (first + ahead >= piece.num_sources) store(piece, row, sums);
      }
      values = next;
      row = next_row, first = next_first;
      next_first += ahead;
      if (next_first >= piece.num_sources) next_first = 0, ++next_row;
    }
  }

  /// Of sources [first, first + ahead), and the log-sum-exps of all 32 where these are the first of them. Around L1:
  /// other SMs wrote them during this launch.
  __device__ __forceinline__ void load(Piece& piece, int row, int first, Values& values) const {
    const AttentionParams& a = args_.params.attention;
    if (piece.num_sources > 32 && (first & 31) == 0) piece.source = source(piece, first);
    const int mine = (piece.source + piece.offset + row) * a.num_kv_heads + piece.kv_head;  // partial_index
    values.lse = first + lane() < piece.num_sources ? __ldcg(a.partial_lse + mine) : -INFINITY;
    const float* const column = a.partial_out + lane() * vector;
#pragma unroll
    for (int s = 0; s < ahead; ++s) {
      const int from = __shfl_sync(~0u, mine, (first + s) & 31);
      ptx::load_if(first + s < piece.num_sources, column + static_cast<std::int64_t>(from) * head_dim, values.out[s]);
    }
  }

  /// A source without tokens holds zeros and weighs nothing.
  static __device__ __forceinline__ void add(int first, const Values& values, Sums& sums) {
    constexpr float log2_e = 1.44269504f;
    if (first == 0) {
      sums.most = -INFINITY, sums.total = 0;
#pragma unroll
      for (int v = 0; v < vector; ++v) sums.out[v] = 0;
    }
    if ((first & 31) == 0) {  // every lane weighs one of the next 32
      float higher = fmaxf(sums.most, values.lse);
#pragma unroll
      for (int step = 16; step > 0; step /= 2) higher = fmaxf(higher, __shfl_xor_sync(~0u, higher, step));
      const float reference = higher == -INFINITY ? 0 : higher;
      sums.weight = ptx::exp2((values.lse - reference) * log2_e);
      const float before = ptx::exp2((sums.most - reference) * log2_e);
      float total = sums.weight;
#pragma unroll
      for (int step = 16; step > 0; step /= 2) total += __shfl_xor_sync(~0u, total, step);
      sums.total = sums.total * before + total;
      sums.most = higher;
#pragma unroll
      for (int v = 0; v < vector; ++v) sums.out[v] *= before;
    }
#pragma unroll
    for (int s = 0; s < ahead; ++s) {
      const float factor = __shfl_sync(~0u, sums.weight, (first + s) & 31);
#pragma unroll
      for (int v = 0; v < vector; ++v) sums.out[v] += factor * values.out[s][v];
    }
  }

  __device__ __forceinline__ void store(const Piece& piece, int row, Sums& sums) const {
    const AttentionParams& a = args_.params.attention;
    const float factor = sums.total > 0 ? __fdividef(1, sums.total) : 0;
#pragma unroll
    for (int v = 0; v < vector; ++v) sums.out[v] *= factor;
    const cuda::RowPlace place{__shfl_sync(~0u, piece.q_index, row),
                               piece.kv_head * a.group_size + args_.group.remainder(piece.row + row)};
    T* const to = cuda::row_of<T>(a.out, place) + lane() * vector;
    if constexpr (general) {
      cuda::store_rounded(to, sums.out);
    } else if constexpr (vector == 4) {
      *reinterpret_cast<uint2*>(to) =
          make_uint2(cuda::pack<T>(sums.out[0], sums.out[1]), cuda::pack<T>(sums.out[2], sums.out[3]));
    } else {
      *reinterpret_cast<std::uint32_t*>(to) = cuda::pack<T>(sums.out[0], sums.out[1]);
    }
    if (a.lse != nullptr && lane() == 0) *cuda::lse_of(a, place) = sums.most + logf(sums.total);
  }

  const Arguments& args_;
  int next_, step_, rows_, pieces_, count_;
  Piece found_;  // next_'s
};

}  // namespace trunkline::kernels::sm90
