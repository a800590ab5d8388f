// Merging what was left partial, after all CTAs have met: out = sum_i w_i out_i with w_i = exp(lse_i - lse), over the
// sources in the plan's order. A warp takes a few rows of one merge and KV head, whose partials lie side by side: where
// they are is looked up once. The copy engine brings a row's sources, and those of the next rows, into the stages,
// which are free by then: a lane asks for a whole partial, so that what a warp does itself is short.
#pragma once

#include <type_traits>

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/rows.cuh"
#include "kernels/sm90/arguments.hpp"
#include "kernels/sm90/layout.cuh"
#include "kernels/sm90/ptx.cuh"
#include "kernels/sm90/units.cuh"

namespace trunkline::kernels::sm90 {

template <class T, int head_dim, bool general>
class MergeRows {
  static constexpr int vector = head_dim / 32;  // elements of a row that a lane has
  using Vector = std::conditional_t<vector == 4, float4, float2>;
  static constexpr int block = 8;  // sources that are copied, and waited for, at once
  static constexpr int row_bytes = head_dim * 4;
  static_assert(merge_warps * merge_blocks * block * row_bytes <= sizeof(SharedMemory<head_dim>::stages));

 public:
  /// By warp `warp` of those of the CTA that merge. Looks up its first rows.
  __device__ MergeRows(const Arguments& args, const Header& header, SharedMemory<head_dim>& shared, int warp)
      : args_(args),
        header_(header),
        barriers_(shared.barriers.merges[warp]),
        blocks_(shared.stages[0] + warp * merge_blocks * block * row_bytes),
        next_(warp * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x)),
        step_(merge_warps * static_cast<int>(gridDim.x)) {
    const int most_rows = header.most_merge_rows();
    const int lists = header.num_merges() * args.params.attention.num_kv_heads;
    const auto up = [](unsigned a, unsigned b) { return static_cast<int>((a + b - 1) / b); };
    rows_ = max(min(up(lists * most_rows, step_), most_rows), 1);
    pieces_ = up(most_rows, rows_);
    count_ = lists * pieces_;
    find();
  }

  /// Once the partials are there.
  __device__ __forceinline__ void run() {
    ptx::fence_async_global();  // the copy engine is to see what the others wrote
#pragma unroll 1
    while (next_ < count_) merge(found_);
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
  static_assert(max_merge_rows <= 32);
  /// Sources [first, first + block) of a row of a piece, in the order in which they are copied and summed.
  struct Place {
    int row = 0, first = 0;
    __device__ __forceinline__ void advance(int num_sources) {
      first += block;
      if (first >= num_sources) first = 0, ++row;
    }
  };

  static __device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x % 32); }

  /// Looks up what next_ is: rows first, then KV heads, then merges.
  __device__ __forceinline__ void find() {
    found_.num_rows = 0;
    if (next_ >= count_) return;
    const CudaParams& params = args_.params;
    const int list = static_cast<int>(static_cast<unsigned>(next_) / static_cast<unsigned>(pieces_));
    const int merge = args_.heads.quotient(list);
    const auto* const merges = cuda::plan_array<Merge>(params.plan, header_.merges());
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
    const auto* const tokens = cuda::plan_array<QueryToken>(params.plan, header_.query_tokens());
    const int row = found_.row + min(lane(), found_.num_rows - 1);
    found_.q_index = __ldg(&tokens[args_.group.quotient(row)].q_index);
  }

  /// This lane's of sources [first, first + 32); after the last one, anything.
  __device__ __forceinline__ int source(const Piece& piece, int first) const {
    const auto* const sources = cuda::plan_array<std::int32_t>(args_.params.plan, header_.merge_sources());
    return first + lane() < piece.num_sources ? __ldg(sources + piece.source_begin + first + lane()) : 0;
  }

  /// Row by row, 32 sources at a time, whose weights the lanes work out; block by block of those.
  __device__ __forceinline__ void merge(Piece piece) {
    Place copied, summed;
    float lse = log_sum_exp(piece, 0, 0);
#pragma unroll 1
    for (int i = 0; i < merge_blocks; ++i) copy(piece, copied);
    next_ += step_;
    find();
#pragma unroll 1
    while (summed.row < piece.num_rows) {
      float most = -INFINITY, total = 0, out[vector];
#pragma unroll
      for (int v = 0; v < vector; ++v) out[v] = 0;
      const int row = summed.row;
#pragma unroll 1
      for (int first = 0; row == summed.row; first += 32) {
        const float mine = lse;
        const bool last = first + 32 >= piece.num_sources;
        lse = log_sum_exp(piece, row + last, last ? 0 : first + 32);
        const float weight = weigh(mine, most, total, out);
#pragma unroll 1
        do {
          add_block(summed.first, piece.num_sources - summed.first, weight, out);
          copy(piece, copied);
          summed.advance(piece.num_sources);
        } while ((summed.first & 31) != 0);
      }
      store(piece, row, most, total, out);
    }
  }

  /// Of sources [first, first + count), as far as the block goes; lane l knows the weight of source l of each 32.
  __device__ __forceinline__ void add_block(int first, int count, float weight, float (&out)[vector]) {
    ptx::barrier_wait(&barriers_[summing_.stage], summing_.parity);
    const auto* const values = reinterpret_cast<const Vector*>(block_at(summing_.stage)) + lane();
#pragma unroll 1
    for (int at = 0; at < min(count, block); at += 4) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float factor = __shfl_sync(~0u, weight, (first + at + i) & 31);
        const Vector value = values[(at + i) * 32];
        const bool copied = at + i < count;  // else there is anything
#pragma unroll
        for (int v = 0; v < vector; ++v) {
          out[v] += factor * (copied ? reinterpret_cast<const float (&)[vector]>(value)[v] : 0);
        }
      }
    }
    __syncwarp();
    summing_.advance(merge_blocks);
  }

  /// This lane's of sources [first, first + 32). Around L1: other SMs wrote them during this launch.
  __device__ __forceinline__ float log_sum_exp(const Piece& piece, int row, int first) const {
    if (row >= piece.num_rows || first + lane() >= piece.num_sources) return -INFINITY;
    const int from = piece.num_sources > 32 ? source(piece, first) : piece.source;
    return __ldcg(args_.params.attention.partial_lse + partial(piece, row, from));
  }
  __device__ __forceinline__ int partial(const Piece& piece, int row, int source) const {
    return (source + piece.offset + row) * args_.params.attention.num_kv_heads + piece.kv_head;  // partial_index
  }

  /// The next block, or none after the last.
  __device__ __forceinline__ void copy(Piece& piece, Place& place) {
    if (place.row >= piece.num_rows) return;
    if (piece.num_sources > 32 && (place.first & 31) == 0) piece.source = source(piece, place.first);
    const int from = __shfl_sync(~0u, piece.source, (place.first + lane()) & 31);
    const int count = min(piece.num_sources - place.first, block);
    std::uint64_t* const full = &barriers_[copying_.stage];
    if (lane() == 0) ptx::barrier_expect(full, count * row_bytes);
    __syncwarp();
    if (lane() < count) {
      ptx::load_bytes(block_at(copying_.stage) + lane() * row_bytes,
                      args_.params.attention.partial_out + std::int64_t{partial(piece, place.row, from)} * head_dim,
                      row_bytes, full);
    }
    copying_.advance(merge_blocks);
    place.advance(piece.num_sources);
  }
  __device__ __forceinline__ std::uint8_t* block_at(int index) const { return blocks_ + index * block * row_bytes; }

  /// The weight of this lane's source among the 32 and all before them, which `total` and `out` are scaled to match.
  /// A source without tokens weighs nothing.
  static __device__ __forceinline__ float weigh(float lse, float& most, float& total, float (&out)[vector]) {
    constexpr float log2_e = 1.44269504f;
    float higher = fmaxf(most, lse);
#pragma unroll
    for (int step = 16; step > 0; step /= 2) higher = fmaxf(higher, __shfl_xor_sync(~0u, higher, step));
    const float reference = higher == -INFINITY ? 0 : higher;
    const float weight = ptx::exp2((lse - reference) * log2_e), before = ptx::exp2((most - reference) * log2_e);
    float sum = weight;
#pragma unroll
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
    total = total * before + sum;
    most = higher;
#pragma unroll
    for (int v = 0; v < vector; ++v) out[v] *= before;
    return weight;
  }

  __device__ __forceinline__ void store(const Piece& piece, int row, float most, float total,
                                        float (&out)[vector]) const {
    const AttentionParams& a = args_.params.attention;
    const float factor = total > 0 ? __fdividef(1, total) : 0;
#pragma unroll
    for (int v = 0; v < vector; ++v) out[v] *= factor;
    const cuda::RowPlace place{__shfl_sync(~0u, piece.q_index, row),
                               piece.kv_head * a.group_size + args_.group.remainder(piece.row + row)};
    T* const to = cuda::row_of<T>(a.out, place) + lane() * vector;
    if constexpr (general) {
      cuda::store_rounded(to, out);
    } else if constexpr (vector == 4) {
      *reinterpret_cast<uint2*>(to) = make_uint2(cuda::pack<T>(out[0], out[1]), cuda::pack<T>(out[2], out[3]));
    } else {
      *reinterpret_cast<std::uint32_t*>(to) = cuda::pack<T>(out[0], out[1]);
    }
    if (a.lse != nullptr && lane() == 0) *cuda::lse_of(a, place) = most + logf(total);
  }

  const Arguments& args_;
  const Header& header_;
  std::uint64_t (&barriers_)[merge_blocks];  // of this warp's blocks
  std::uint8_t* blocks_;
  Ring copying_, summing_;
  int next_, step_, rows_, pieces_, count_;
  Piece found_;  // next_'s
};

}  // namespace trunkline::kernels::sm90
