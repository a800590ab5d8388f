// Merging what was left partial, after all CTAs have met: out = sum_i w_i out_i with w_i = exp(lse_i - lse), over the
// sources in the plan's order. A warp takes a few rows of one merge and KV head, whose partials lie side by side: where
// they are is looked up once. A row's sources, and those of the next rows, are copied into the stages, which are free
// by then, by every lane its own part: it waits for nobody else's copies.
#pragma once

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
  static constexpr int block = 4;               // sources that are copied, and waited for, at once
  static constexpr int row_bytes = head_dim * 4, lane_bytes = vector * 4;
  static_assert(merge_warps * merge_blocks * block * row_bytes <= sizeof(SharedMemory<head_dim>::stages));

 public:
  /// By warp `warp` of those of the CTA that merge. Looks up its first rows.
  __device__ MergeRows(const Arguments& args, const Header& header, SharedMemory<head_dim>& shared, int warp)
      : args_(args),
        header_(header),
        barriers_(shared.barriers.merges[warp]),
        blocks_(ptx::shared_address(shared.stages[0]) + warp * merge_blocks * block * row_bytes + lane() * lane_bytes),
        next_(warp * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x)),
        step_(merge_warps * static_cast<int>(gridDim.x)),
        rows_(header.piece_rows()),
        pieces_(header.pieces()) {
    count_ = header.num_merges() * args.params.attention.num_kv_heads * pieces_.divisor;
    if (lane() < merge_blocks) ptx::barrier_init(&barriers_[lane()], 32);
    ptx::barrier_init_fence();
    __syncwarp();
    find();
  }

  /// Once the partials are there.
  __device__ __forceinline__ void run() {
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

  /// Row by row, 32 sources at a time, whose weights the lanes work out; block by block of those. One place copies.
  __device__ __forceinline__ void merge(Piece piece) {
    Place copied, summed;
    int ahead = 0;  // blocks copied and not yet summed
    float lse = log_sum_exp(piece, 0, 0);
#pragma unroll 1
    while (summed.row < piece.num_rows) {
      float most = -INFINITY, total = 0, out[vector];
#pragma unroll
      for (int v = 0; v < vector; ++v) out[v] = 0;
      const int row = summed.row;
#pragma unroll 1
      for (int first = 0; row == summed.row; first += 32) {
#pragma unroll 1
        for (; ahead < merge_blocks && copied.row < piece.num_rows; ++ahead) copy(piece, copied);
        if (row + first == 0) next_ += step_, find();
        const float mine = lse;
        const bool last = first + 32 >= piece.num_sources;
        lse = log_sum_exp(piece, row + last, last ? 0 : first + 32);
        const float weight = weigh(mine, most, total, out);
#pragma unroll 1
        do {
          add_block(summed.first, weight, total, out);
          summed.advance(piece.num_sources);
          --ahead;
        } while ((summed.first & 31) != 0);
      }
      store(piece, row, most, total, out);
    }
  }

  /// Of sources [first, first + block), some of which may be zeros; lane l knows the weight of source l of each 32.
  __device__ __forceinline__ void add_block(int first, float weight, float& total, float (&out)[vector]) {
    ptx::barrier_wait(&barriers_[summing_.stage], summing_.parity);
    const std::uint32_t values = blocks_ + summing_.stage * block * row_bytes;
#pragma unroll
    for (int i = 0; i < block; ++i) {
      const float factor = __shfl_sync(~0u, weight, (first + i) & 31);
      float value[vector];
      ptx::load(values + i * row_bytes, value);
      total += factor;
#pragma unroll
      for (int v = 0; v < vector; ++v) out[v] += factor * value[v];
    }
    summing_.advance(merge_blocks);
  }

  /// This lane's of sources [first, first + 32). Around L1: other SMs wrote them during this launch.
  __device__ __forceinline__ float log_sum_exp(const Piece& piece, int row, int first) const {
    const int from = piece.num_sources > 32 ? source(piece, first) : piece.source;  // by all lanes
    if (row >= piece.num_rows || first + lane() >= piece.num_sources) return -INFINITY;
    return __ldcg(args_.params.attention.partial_lse + partial(piece, row, from));
  }
  __device__ __forceinline__ int partial(const Piece& piece, int row, int source) const {
    return (source + piece.offset + row) * args_.params.attention.num_kv_heads + piece.kv_head;  // partial_index
  }

  /// The next block, zeros beyond the row's last source.
  __device__ __forceinline__ void copy(Piece& piece, Place& place) {
    if (piece.num_sources > 32 && (place.first & 31) == 0) piece.source = source(piece, place.first);
    const AttentionParams& a = args_.params.attention;
    const int stride = a.num_kv_heads * row_bytes;
    const auto* const from = reinterpret_cast<const char*>(a.partial_out + piece.kv_head * head_dim + lane() * vector);
    const std::uint32_t to = blocks_ + copying_.stage * block * row_bytes;
#pragma unroll
    for (int i = 0; i < block; ++i) {
      const int row = __shfl_sync(~0u, piece.source, (place.first + i) & 31) + piece.offset + place.row;
      ptx::copy_own<lane_bytes>(to + i * row_bytes, from + std::int64_t{row} * stride,
                                place.first + i < piece.num_sources);
    }
    ptx::barrier_arrive_behind_copies(&barriers_[copying_.stage]);
    copying_.advance(merge_blocks);
    place.advance(piece.num_sources);
  }

  /// The weight of this lane's source beside the highest lse of the 32 and all before them, to which `total` and `out`
  /// are scaled. A source without tokens weighs nothing.
  static __device__ __forceinline__ float weigh(float lse, float& most, float& total, float (&out)[vector]) {
    constexpr float log2_e = 1.44269504f;
    const float higher = fmaxf(most, highest(lse));
    const float reference = higher == -INFINITY ? 0 : higher;
    const float before = ptx::exp2((most - reference) * log2_e);
    most = higher;
    total *= before;
#pragma unroll
    for (int v = 0; v < vector; ++v) out[v] *= before;
    return ptx::exp2((lse - reference) * log2_e);
  }
  /// Of all lanes: as integers that are ordered like the numbers, for which there is one instruction.
  static __device__ __forceinline__ float highest(float x) {
    const auto flip = [](int bits) { return bits ^ (bits >> 31 & 0x7FFFFFFF); };
    return __int_as_float(flip(__reduce_max_sync(~0u, flip(__float_as_int(x)))));
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
    if (a.lse != nullptr && lane() == 0) *cuda::lse_of(a, place) = most + logf(total);
  }

  const Arguments& args_;
  const Header& header_;
  std::uint64_t (&barriers_)[merge_blocks];  // of this warp's blocks
  std::uint32_t blocks_;                     // this lane's part of them
  Ring copying_, summing_;
  int next_, step_, rows_;
  cuda::Divisor pieces_;  // of a merge and KV head
  int count_;
  Piece found_;  // next_'s
};

}  // namespace trunkline::kernels::sm90
