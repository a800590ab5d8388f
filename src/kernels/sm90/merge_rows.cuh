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

/// exp(lse - most), 0 for a source without tokens.
__device__ __forceinline__ float weight_of(float lse, float most) {
  constexpr float log2_e = 1.44269504f;
  return lse == -INFINITY ? 0 : ptx::exp2((lse - most) * log2_e);
}

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
    rows_ = rows <= 2 * num_warps ? 1 : 4;
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
        merge<1, 16>(piece);
      } else {
        merge<4, 4>(piece);
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
  __device__ __forceinline__ void read_lse(const MergePiece& piece, int first, std::int32_t (&partial)[rows],
                                           float (&lse)[rows]) const {
    const AttentionParams& a = params_.attention;
    const int at = first + static_cast<int>(threadIdx.x % 32), last = piece.merge.num_sources - 1;
    const int source = first == 0 ? piece.source : __ldg(sources_ + piece.merge.source_begin + min(at, last));
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      partial[r] = source + min(piece.row + r, piece.row_end - 1);
      const float* const from = a.partial_lse + cuda::partial_index(a, partial[r], piece.kv_head);
      lse[r] = at <= last ? __ldcg(from) : -INFINITY;
    }
  }

  /// Over the lanes.
  template <int rows>
  static __device__ __forceinline__ void reduce(float (&most)[rows], float (&sum)[rows]) {
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      float highest = most[r];
#pragma unroll
      for (int step = 16; step > 0; step /= 2) highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, step));
      sum[r] *= weight_of(most[r], highest);
#pragma unroll
      for (int step = 16; step > 0; step /= 2) sum[r] += __shfl_xor_sync(~0u, sum[r], step);
      most[r] = highest;
    }
  }

  /// `ahead` sources are on their way at once, of all rows.
  template <int rows, int ahead>
  __device__ __forceinline__ void merge(const MergePiece& piece) const {
    const AttentionParams& a = params_.attention;
    const int lane = threadIdx.x % 32, num_sources = piece.merge.num_sources;
    std::int32_t partial[rows];
    float lse[rows], most[rows], sum[rows], weight[rows], out[rows][vector] = {};
#pragma unroll
    for (int r = 0; r < rows; ++r) most[r] = -INFINITY, sum[r] = 0;
    if (num_sources > 32) {  // more than a lane each: their weights need a pass of their own
#pragma unroll 1
      for (int chunk = 0; chunk < num_sources; chunk += 32) {
        read_lse(piece, chunk, partial, lse);
#pragma unroll
        for (int r = 0; r < rows; ++r) {
          const float higher = fmaxf(most[r], lse[r]);
          sum[r] = sum[r] * weight_of(most[r], higher) + weight_of(lse[r], higher);
          most[r] = higher;
        }
      }
      reduce(most, sum);
    }
#pragma unroll 1
    for (int first = 0; first < num_sources; first += ahead) {
      if (first % 32 == 0) read_lse(piece, first, partial, lse);
      float loaded[ahead][rows][vector];
#pragma unroll
      for (int s = 0; s < ahead; ++s) {
#pragma unroll
        for (int r = 0; r < rows; ++r) {  // beyond the last source: the last one again
          const std::int64_t from =
              cuda::partial_index(a, __shfl_sync(~0u, partial[r], (first + s) % 32), piece.kv_head);
          cuda::merging::load_partial(loaded[s][r], a.partial_out + from * head_dim + lane * vector);
        }
      }
      if (first % 32 == 0) {  // under the loads
        if (num_sources <= 32) {
#pragma unroll
          for (int r = 0; r < rows; ++r) most[r] = lse[r], sum[r] = lse[r] == -INFINITY ? 0 : 1;
          reduce(most, sum);
        }
#pragma unroll
        for (int r = 0; r < rows; ++r) weight[r] = sum[r] == 0 ? 0 : weight_of(lse[r], most[r]) / sum[r];
      }
#pragma unroll
      for (int s = 0; s < ahead; ++s) {
#pragma unroll
        for (int r = 0; r < rows; ++r) {
          const float factor = __shfl_sync(~0u, weight[r], (first + s) % 32);  // 0 beyond the last source
#pragma unroll
          for (int v = 0; v < vector; ++v) {  // a source without tokens: its out is not used
            out[r][v] += factor == 0 ? 0 : factor * loaded[s][r][v];
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
    }
    if (a.lse == nullptr || piece.row + lane >= piece.row_end) return;
    float my_most = most[0], my_sum = sum[0];  // of row `lane`
#pragma unroll
    for (int r = 1; r < rows; ++r) {
      if (lane == r) my_most = most[r], my_sum = sum[r];
    }
    const auto place = cuda::place_of(a, piece.q_index, piece.merge.row_begin + piece.row + lane, piece.kv_head);
    *cuda::lse_of(a, place) = my_most + logf(my_sum);
  }

  const CudaParams& params_;
  const QueryToken* tokens_;
  const Merge* merges_;
  const std::int32_t* sources_;
  int next_, step_, rows_, pieces_, num_pieces_;
  MergePiece piece_;  // next_'s, looked up
};

}  // namespace trunkline::kernels::sm90
