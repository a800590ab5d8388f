// Merging what was left partial, after all CTAs have met. The wide consumers' warps take pieces of merges, few rows
// each so that all warps have one, and know what to load before they wait for the others: after the wait one round trip
// to L2 brings everything.
#pragma once

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/merge.cuh"
#include "kernels/cuda/rows.cuh"

namespace trunkline::kernels::sm90 {

/// Rows of one merge and KV head.
struct MergePiece {
  Merge merge;
  int kv_head, row, row_end;  // counted from the merge's first row; empty: nothing to do
  int source;                 // of this lane's source: partial row of the merge's first row
  int q_index;                // of row + lane, for the first lanes
};

template <class T, int head_dim>
class MergeList {
  static constexpr int vector = head_dim / 32;  // elements of a row that a lane has

 public:
  /// By warp `warp` of `num_warps` in the launch.
  __device__ MergeList(const CudaParams& params, int warp, int num_warps)
      : params_(params),
        tokens_(cuda::plan_array<QueryToken>(params.plan, params.plan->query_tokens)),
        merges_(cuda::plan_array<Merge>(params.plan, params.plan->merges)),
        sources_(cuda::plan_array<std::int32_t>(params.plan, params.plan->merge_sources)),
        next_(warp),
        step_(num_warps) {
    const int most_rows = params.plan->most_merge_rows, heads = params.attention.num_kv_heads;
    const int rows = params.plan->num_merges * heads * most_rows;
    rows_ = rows <= 2 * num_warps ? 1 : 2;
    pieces_ = (most_rows + rows_ - 1) / rows_;
    num_pieces_ = params.plan->num_merges * heads * pieces_;
    piece_ = find();
  }

  /// Once the partials are there.
  __device__ void run() {
    while (next_ < num_pieces_) {
      const MergePiece piece = piece_;
      next_ += step_;
      piece_ = find();
      if (piece.row >= piece.row_end) continue;
      if (rows_ == 1) {
        merge<1, 8>(piece);
      } else {
        merge<2, 4>(piece);
      }
    }
  }

 private:
  __device__ __forceinline__ MergePiece find() const {
    MergePiece piece{};
    if (next_ >= num_pieces_) return piece;
    const AttentionParams& a = params_.attention;
    const int lane = threadIdx.x % 32, rest = next_ % (a.num_kv_heads * pieces_);
    const int4 merge = __ldg(reinterpret_cast<const int4*>(merges_ + next_ / (a.num_kv_heads * pieces_)));
    piece.merge = {merge.x, merge.y, merge.z, merge.w};
    piece.kv_head = rest / pieces_;
    piece.row = rest % pieces_ * rows_;
    piece.row_end = min(piece.row + rows_, piece.merge.num_rows);
    if (piece.merge.num_sources > 0) {
      piece.source = __ldg(sources_ + piece.merge.source_begin + min(lane, piece.merge.num_sources - 1));
    }
    const int row = piece.merge.row_begin + min(piece.row + lane, piece.merge.num_rows - 1);
    piece.q_index = __ldg(&tokens_[row / a.group_size].q_index);
    return piece;
  }

  /// Of this lane's source among [first, first + 32): the partial rows, and their log-sum-exps.
  template <int rows>
  __device__ __forceinline__ void read_lse(const MergePiece& piece, int first, std::int64_t (&index)[rows],
                                           float (&lse)[rows]) const {
    const AttentionParams& a = params_.attention;
    const int at = first + static_cast<int>(threadIdx.x % 32), last = piece.merge.num_sources - 1;
    const int source = first == 0 ? piece.source : __ldg(sources_ + piece.merge.source_begin + min(at, last));
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      index[r] = cuda::partial_index(a, source + min(piece.row + r, piece.row_end - 1), piece.kv_head);
      lse[r] = at <= last ? __ldcg(a.partial_lse + index[r]) : -INFINITY;
    }
  }

  /// `ahead` sources are on their way at once, of all rows.
  template <int rows, int ahead>
  __device__ __forceinline__ void merge(const MergePiece& piece) const {
    const AttentionParams& a = params_.attention;
    const int lane = threadIdx.x % 32, num_sources = piece.merge.num_sources;
    std::int64_t index[rows];
    float lse[rows], loaded[ahead][rows][vector];
    const auto load = [&](int first) {
#pragma unroll
      for (int s = 0; s < ahead; ++s) {
#pragma unroll
        for (int r = 0; r < rows; ++r) {
          const std::int64_t from =
              __shfl_sync(~0u, index[r], (first + s) % 32);  // beyond the last: the last once more
          cuda::merging::load_partial(loaded[s][r], a.partial_out + from * head_dim + lane * vector);
        }
      }
    };
    float most[rows], sum[rows], out[rows][vector] = {};
#pragma unroll
    for (int r = 0; r < rows; ++r) most[r] = -INFINITY, sum[r] = 0;
    if (num_sources > 0) {
      read_lse(piece, 0, index, lse);
      load(0);
    }
    for (int first = 0; first < num_sources; first += 32) {
      if (first > 0) read_lse(piece, first, index, lse);
#pragma unroll
      for (int r = 0; r < rows; ++r) {
        const float higher = fmaxf(most[r], lse[r]);
        sum[r] = sum[r] * cuda::merging::weight_of(most[r], higher) + cuda::merging::weight_of(lse[r], higher);
        most[r] = higher;
      }
    }
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      float highest = most[r];
#pragma unroll
      for (int step = 16; step > 0; step /= 2) highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, step));
      sum[r] *= cuda::merging::weight_of(most[r], highest);
#pragma unroll
      for (int step = 16; step > 0; step /= 2) sum[r] += __shfl_xor_sync(~0u, sum[r], step);
      most[r] = highest;
    }
    for (int chunk = 0; chunk < num_sources; chunk += 32) {
      if (num_sources > 32) read_lse(piece, chunk, index, lse);
      float weight[rows];
#pragma unroll
      for (int r = 0; r < rows; ++r) {
        weight[r] = sum[r] == 0 ? 0 : cuda::merging::weight_of(lse[r], most[r]) / sum[r];
      }
      for (int first = 0; first < min(32, num_sources - chunk); first += ahead) {
        if (chunk + first > 0) load(first);
#pragma unroll
        for (int s = 0; s < ahead; ++s) {
#pragma unroll
          for (int r = 0; r < rows; ++r) {
            const float factor = __shfl_sync(~0u, weight[r], (first + s) % 32);  // 0 beyond the last source
            if (factor == 0) continue;                                           // no token: its out is not used
#pragma unroll
            for (int v = 0; v < vector; ++v) out[r][v] += factor * loaded[s][r][v];
          }
        }
      }
    }
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      const int q_index = __shfl_sync(~0u, piece.q_index, r);
      if (piece.row + r >= piece.row_end) break;
      const auto place = cuda::place_of(a, q_index, piece.merge.row_begin + piece.row + r, piece.kv_head);
      cuda::store_rounded(cuda::row_of<T>(a.out, place) + lane * vector, out[r]);
      if (a.lse != nullptr && lane == 0) *cuda::lse_of(a, place) = most[r] + logf(sum[r]);
    }
  }

  const CudaParams& params_;
  const QueryToken* tokens_;
  const Merge* merges_;
  const std::int32_t* sources_;
  int next_, step_, rows_, pieces_, num_pieces_;
  MergePiece piece_;  // next_'s, looked up
};

}  // namespace trunkline::kernels::sm90
