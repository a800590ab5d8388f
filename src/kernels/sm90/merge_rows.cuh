// Merging what was left partial, after all CTAs have met: out = sum_i w_i out_i with w_i = exp(lse_i - lse), over the
// sources in the plan's order. A warp takes a few rows of one merge and KV head, whose partials lie side by side: where
// they are is looked up once. A row's sources and their log-sum-exps, and those of the next rows, are copied into the
// stages, which are free by then, by every lane its own part: it waits for nobody else's copies. Rows of few sources
// are weighed several at a time, each by a part of the warp.
#pragma once

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/rows.cuh"
#include "kernels/sm90/arguments.hpp"
#include "kernels/sm90/layout.cuh"
#include "kernels/sm90/ptx.cuh"
#include "kernels/sm90/units.cuh"
#include "kernels/sm90/write_rows.cuh"

namespace trunkline::kernels::sm90 {

template <class T, int head_dim, bool general>
class MergeRows {
  static constexpr int vector = head_dim / 32;  // elements of a row that a lane has
  static constexpr int block = 4;               // sources that are copied, and waited for, at once
  static constexpr int row_bytes = head_dim * 4, lane_bytes = vector * 4;
  static constexpr int lse_bytes = 32 * 4;  // of 32 sources, a lane each
  static constexpr int blocks_bytes = merge_warps * merge_blocks * block * row_bytes;
  static_assert(blocks_bytes + merge_warps * merge_blocks * lse_bytes <= sizeof(SharedMemory<head_dim>::stages));

 public:
  /// By warp `warp` of those of the CTA that merge. Looks up its first rows.
  __device__ MergeRows(const Arguments& args, const Header& header, SharedMemory<head_dim>& shared, int warp)
      : args_(args),
        header_(header),
        blocks_(ptx::shared_address(shared.stages[0]) + warp * merge_blocks * block * row_bytes + lane() * lane_bytes),
        lses_(ptx::shared_address(shared.stages[0]) + blocks_bytes + warp * merge_blocks * lse_bytes + lane() * 4),
        next_(warp * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x)),
        step_(merge_warps * static_cast<int>(gridDim.x)),
        rows_(header.piece_rows()),
        pieces_(header.pieces()) {
    count_ = header.num_merges() * args.params.attention.num_kv_heads * pieces_.divisor;
    find();
  }

  /// Once the partials are there.
  __device__ __forceinline__ void run() {
#pragma unroll 1
    while (next_ < count_) merge(found_);
  }

 private:
  static __device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x % 32); }

  /// Sources [first, first + block) of a row of a piece, in the order in which they are copied and summed.
  struct Place {
    int row = 0, first = 0;
    __device__ __forceinline__ void advance(int num_sources) {
      first += block;
      if (first >= num_sources) first = 0, ++row;
    }
  };
  /// Rows of one merge and KV head.
  struct Piece {
    int row, num_rows, kv_head;  // of the plan
    int num_sources, source_begin;
    int offset;   // of the first row in its merge
    int source;   // lane l: partial row of the merge's first row in source l of those at hand
    int q_index;  // lane l: of row l
    int shift;    // a row's sources have 1 << shift lanes: 32 >> shift rows are weighed at once
    /// The lane that has the weight of the block's first source; 0 where the next sources are to be weighed.
    __device__ __forceinline__ int lane_of(const Place& place) const {
      return ((place.row << shift) + place.first) % 32;
    }
    /// This lane's row of those that are weighed from `place` on, and its source of those from there on.
    __device__ __forceinline__ int row_of(const Place& place) const { return place.row + (lane() >> shift); }
    __device__ __forceinline__ int source_of_lane() const { return lane() & ((1 << shift) - 1); }
  };
  static_assert(max_merge_rows <= 32);

  /// Looks up what next_ is, rows first, then KV heads, then merges; or the next that has rows.
  __device__ __forceinline__ void find() {
    const CudaParams& params = args_.params;
#pragma unroll 1
    for (; next_ < count_; next_ += step_) {
      const int list = pieces_.quotient(next_);
      const int merge = args_.heads.quotient(list);
      const auto* const merges = cuda::plan_array<Merge>(params.plan, header_.merges());
      const int4 entry = __ldg(reinterpret_cast<const int4*>(merges + merge));
      const Merge at{entry.x, entry.y, entry.z, entry.w};
      found_.offset = (next_ - list * pieces_.divisor) * rows_;
      if (found_.offset >= at.num_rows) continue;
      found_.row = at.row_begin + found_.offset;
      found_.num_rows = min(rows_, at.num_rows - found_.offset);
      found_.kv_head = list - merge * params.attention.num_kv_heads;
      found_.num_sources = at.num_sources;
      found_.shift = 2 + (at.num_sources > 4) + (at.num_sources > 8) + (at.num_sources > 16);
      found_.source_begin = at.source_begin;
      found_.source = source(found_, 0);
      const auto* const tokens = cuda::plan_array<QueryToken>(params.plan, header_.query_tokens());
      const int row = found_.row + min(lane(), found_.num_rows - 1);
      found_.q_index = __ldg(&tokens[args_.group.quotient(row)].q_index);
      return;
    }
  }

  /// This lane's of sources [first, first + 32); after the last one, anything. By all lanes: the header is spread over
  /// them.
  __device__ __forceinline__ int source(const Piece& piece, int first) const {
    const auto* const sources = cuda::plan_array<std::int32_t>(args_.params.plan, header_.merge_sources());
    return first + lane() < piece.num_sources ? __ldg(sources + piece.source_begin + first + lane()) : 0;
  }

  /// Block by block. With every block that is summed a later one is asked for, or nothing: so the one to sum is always
  /// the oldest of as many groups of copies.
  __device__ __forceinline__ void merge(Piece piece) {
    Place copied, summed;
    copying_ = summing_ = 0;
#pragma unroll 1
    for (int i = 1; i < merge_blocks; ++i) copy(piece, copied);
    next_ += step_, find();
    float most = -INFINITY, total = 0, weight = 0, out[vector];
    zero(out);
#pragma unroll 1
    while (summed.row < piece.num_rows) {
      copy(piece, copied);
      cuda::wait_copies<merge_blocks - 1>();
      const int at = piece.lane_of(summed);
      if (at == 0) weight = weigh(piece, summed, most, total, out);
      add_block(at, weight, total, out);
      const int row = summed.row;
      summed.advance(piece.num_sources);
      if (summed.row != row) {
        store(piece, row, __shfl_sync(~0u, most, at), total, out);
        total = 0, zero(out);
      }
    }
  }
  static __device__ __forceinline__ void zero(float (&out)[vector]) {
#pragma unroll
    for (int v = 0; v < vector; ++v) out[v] = 0;
  }

  /// Sources beyond a row's last are zeros. Lane `at` + i knows the weight of source i of the block.
  __device__ __forceinline__ void add_block(int at, float weight, float& total, float (&out)[vector]) {
    const std::uint32_t values = blocks_ + summing_ * block * row_bytes;
#pragma unroll
    for (int i = 0; i < block; ++i) {
      const float factor = __shfl_sync(~0u, weight, at + i);
      float value[vector];
      ptx::load(values + i * row_bytes, value);
      total += factor;
#pragma unroll
      for (int v = 0; v < vector; ++v) out[v] += factor * value[v];
    }
    summing_ = (summing_ + 1) % merge_blocks;
  }

  __device__ __forceinline__ int partial(const Piece& piece, int row, int source) const {
    return (source + piece.offset + row) * args_.params.attention.num_kv_heads + piece.kv_head;  // partial_index
  }

  /// The next block, zeros beyond the row's last source; after the last block nothing. A group of copies.
  __device__ __forceinline__ void copy(Piece& piece, Place& place) {
    if (place.row < piece.num_rows) copy_block(piece, place);
    cuda::commit_copies();
    copying_ = (copying_ + 1) % merge_blocks;
  }
  __device__ __forceinline__ void copy_block(Piece& piece, Place& place) {
    const int at = piece.lane_of(place);
    if (piece.num_sources > 32 && at == 0) piece.source = source(piece, place.first);
    const AttentionParams& a = args_.params.attention;
    const int stride = a.num_kv_heads * row_bytes;
    const auto* const from = reinterpret_cast<const char*>(a.partial_out + piece.kv_head * head_dim + lane() * vector);
    const std::uint32_t to = blocks_ + copying_ * block * row_bytes;
#pragma unroll
    for (int i = 0; i < block; ++i) {
      const int row = __shfl_sync(~0u, piece.source, (place.first + i) % 32) + piece.offset + place.row;
      ptx::copy_own<lane_bytes>(to + i * row_bytes, from + std::int64_t{row} * stride,
                                place.first + i < piece.num_sources);
    }
    // All CTAs have met since, and this SM has read none of it before: L1 holds nothing old. A lane without a source
    // brings what `weigh` does not use.
    if (at == 0) {
      const int row = piece.row_of(place);
      const int source = __shfl_sync(~0u, piece.source, piece.source_of_lane());
      ptx::copy_own<4>(lses_ + copying_ * lse_bytes, a.partial_lse + partial(piece, row, source), row < piece.num_rows);
    }
    place.advance(piece.num_sources);
  }

  /// The weight of this lane's source of those whose log-sum-exps came with the block at `place`, relative to the
  /// highest of its row so far. What was summed of the row before is brought to the same reference. A source without
  /// tokens weighs nothing, and a lane without a source neither.
  __device__ __forceinline__ float weigh(const Piece& piece, const Place& place, float& most, float& total,
                                         float (&out)[vector]) const {
    constexpr float log2_e = 1.44269504f;
    if (place.first == 0) most = -INFINITY;
    float lse[1];
    ptx::load(lses_ + summing_ * lse_bytes, lse);
    if (place.first + piece.source_of_lane() >= piece.num_sources) lse[0] = -INFINITY;
    const float higher = fmaxf(most, highest_of_row(piece, lse[0]));
    const float reference = higher == -INFINITY ? 0 : higher;
    const float before = ptx::exp2((most - reference) * log2_e);
    most = higher;
    total *= before;
#pragma unroll
    for (int v = 0; v < vector; ++v) out[v] *= before;
    return ptx::exp2((lse[0] - reference) * log2_e);
  }
  /// Of the lanes of this lane's row.
  static __device__ __forceinline__ float highest_of_row(const Piece& piece, float x) {
    if (piece.shift == 5) {
      const auto flip = [](int bits) { return bits ^ (bits >> 31 & 0x7FFFFFFF); };
      return __int_as_float(flip(__reduce_max_sync(~0u, flip(__float_as_int(x)))));
    }
#pragma unroll
    for (int shift = 3; shift >= 0; --shift) {
      const float other = __shfl_xor_sync(~0u, x, 1 << shift);
      if (shift < 2 || shift < piece.shift) x = fmaxf(x, other);
    }
    return x;
  }

  __device__ __forceinline__ void store(const Piece& piece, int row, float most, float total,
                                        float (&out)[vector]) const {
    const AttentionParams& a = args_.params.attention;
    const float factor = total > 0 ? ptx::reciprocal(total) : 0;
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
    if (a.lse != nullptr && lane() == 0) *cuda::lse_of(a, place) = most + ptx::log2(total) * log_2;
  }

  const Arguments& args_;
  const Header& header_;
  std::uint32_t blocks_, lses_;    // this lane's part of this warp's
  int copying_ = 0, summing_ = 0;  // block
  int next_, step_, rows_;
  cuda::Divisor pieces_;  // of a merge and KV head
  int count_;
  Piece found_;  // next_'s
};

}  // namespace trunkline::kernels::sm90
