// The wide lane: up to 128 rows, bound by the matrix rate. Each of two warpgroups has 64 rows, with their queries,
// scores and results in registers:
//     S = Q K^T,    P = exp(S - reference),    O += P V.
// The scores of a tile are issued with the values of the tile before it. While a warpgroup then works out exponentials,
// the products of the other run.
#pragma once

#include <cfloat>
#include <cstddef>

#include "kernels/sm90/layout.cuh"
#include "kernels/sm90/wgmma.cuh"
#include "kernels/sm90/write_rows.cuh"

namespace trunkline::kernels::sm90 {

template <class T, int head_dim, bool general>
class WideConsumer {
  using Layout = StageLayout<head_dim>;

 public:
  __device__ WideConsumer(const Arguments& args, SharedMemory<head_dim>& shared, const CtaWork::Lane& work)
      : args_(args),
        shared_(shared),
        work_(work),
        first_stage_(num_stages - work.num_stages),
        units_left_(num_units(work)),
        high_(threadIdx.x / warpgroup == static_cast<unsigned>(Role::wide_high)),
        first_row_(static_cast<int>(high_ * 64 + threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4)),
        scale_(fmaxf(fabsf(args.scale_log2), FLT_MIN)),
        empty_(ptx::remote_address(&shared.barriers.wide,
                                   work.paired != 0 && !general ? threadIdx.x % 2 : ptx::cluster_rank())) {}

  /// Unit after unit. One place loads queries: those of the next unit, under the last values of the one before it.
  __device__ void run() {
    std::uint32_t q[head_dim / 16][4];
    Probabilities p;
    float out[head_dim / 2], reference[2], sum[2];
    bool open = false;  // the last values of the unit before are to come
    bool first = true;
#pragma unroll 1
    for (; units_left_ >= 0; --units_left_, first = false) {
      if (units_left_ > 0) load_next_queries(q, first);
      if (open) {
        finish(p, out);
        write(shared_.wide_units[unit_.stage], out, reference, sum);
        leave_unit();
      }
      if (units_left_ == 0) break;
      if (first) ptx::barrier_wait(&shared_.barriers.wide_units.full[0], 0);
      const Unit& unit = shared_.wide_units[unit_.stage];
      open = unit.num_rows > (high_ ? 64 : 0);
      if (open) {
        attend(unit, q, p, out, reference, sum);
      } else {
        skip(unit);
        leave_unit();
      }
    }
  }

 private:
  using Unit = WideSlot;
  using Probabilities = std::uint32_t[4][4];  // of a tile, packed: by 16 tokens
  static constexpr float headroom = 32768;    // of a lane's sum over one row of a tile: f16 holds up to 65504

  __device__ __forceinline__ int query_head(const Unit& unit, int row) const {
    return unit.head * args_.params.attention.group_size + args_.group.remainder(unit.row_begin + row);
  }
  static __device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x % 32); }

  /// The first row where there is none: the neighbour has them all.
  __device__ __forceinline__ int row_or_last(int h, int num_rows) const {
    return max(min(first_row_ + 8 * h, num_rows - 1), 0);
  }

  /// Of the unit after the last whose queries were loaded, as A of the products. Rows beyond the unit's last repeat it:
  /// what becomes of them is not written. All loads are issued before the first result is used. Those of the first unit
  /// do not wait for its loader where the item beside the schedule says in which rows of q they lie.
  __device__ __forceinline__ void load_next_queries(std::uint32_t (&q)[head_dim / 16][4], bool first) {
    const AttentionParams& a = args_.params.attention;
    int row_begin, num_rows, head, q_index[2];
    const CudaItem& item = work_.first;
    const int first_q = first ? __ldg(&item.first_q) : -1;
    if (first_q >= 0) {
      row_begin = __ldg(&item.row_begin);
      num_rows = __ldg(&item.num_rows);
      head = __ldg(&work_.first_head);
      const int token = args_.group.quotient(row_begin);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = row_or_last(h, num_rows);
        q_index[h] = first_q + args_.group.quotient(row_begin + row) - token;
      }
    } else {
      ptx::barrier_wait(&shared_.barriers.wide_units.full[queries_.stage], queries_.parity);
      const Unit& unit = shared_.wide_units[queries_.stage];
      row_begin = unit.row_begin;
      num_rows = unit.num_rows;
      head = unit.head;
#pragma unroll
      for (int h = 0; h < 2; ++h) q_index[h] = unit.q_index[row_or_last(h, num_rows)];
    }
    queries_.advance(num_wide_slots);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = row_or_last(h, num_rows);
      const cuda::RowPlace place{q_index[h], head * a.group_size + args_.group.remainder(row_begin + row)};
      const T* const from = ptx::known(cuda::row_of<T>(a.q, place) + lane() % 4 * 2);
#pragma unroll
      for (int k = 0; k < head_dim / 8; ++k) q[k / 2][h + k % 2 * 2] = load_pair(from + k * 8);
    }
    if (args_.q_sign == 0) return;
#pragma unroll
    for (int k = 0; k < head_dim / 16; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) q[k][i] ^= args_.q_sign;
    }
  }

  static __device__ __forceinline__ std::uint32_t load_pair(const T* from) {
    if constexpr (general) return cuda::load_unaligned_pair(reinterpret_cast<const std::uint16_t*>(from));
    return __ldg(reinterpret_cast<const std::uint32_t*>(from));
  }

  /// Of a stage, known to be the same in all lanes: descriptors made of it stay in uniform registers.
  __device__ __forceinline__ std::uint32_t address_of(const Ring& ring) const {
    return __shfl_sync(~0u, ptx::shared_address(shared_.stages[first_stage_ + ring.stage]), 0);
  }

  __device__ __forceinline__ void wait_keys() {
    ptx::barrier_wait(&shared_.barriers.wide.k_full[keys_.stage], keys_.parity);
  }
  __device__ __forceinline__ void wait_values() {
    ptx::barrier_wait(&shared_.barriers.wide.v_full[values_.stage], values_.parity);
  }
  /// Of a pair of CTAs both are told, as both loaders write to both; a CTA alone is told twice.
  __device__ __forceinline__ void release(std::size_t barriers, int stage) const {
    if (lane() < 2) {
      ptx::barrier_arrive_remote(empty_ + static_cast<std::uint32_t>(barriers + stage * sizeof(std::uint64_t)));
    }
  }
  __device__ __forceinline__ void release_keys() {
    release(offsetof(StageBarriers, k_empty), keys_.stage);
    keys_.advance(num_stages - first_stage_);
  }
  /// The values after these are in the stage `next`.
  __device__ __forceinline__ void release_values(Ring next) {
    release(offsetof(StageBarriers, v_empty), values_.stage);
    values_ = next;
  }

  /// The unit has no rows for this warpgroup. All lanes have seen a stage before one gives it back: a ring that went
  /// round twice would look to a late lane as if it had not moved.
  __device__ __forceinline__ void skip(const Unit& unit) {
    for (int tile = 0; tile < unit.num_tiles; ++tile) {
      wait_keys();
      __syncwarp();
      release_keys();
      wait_values();
      __syncwarp();
      release_values(keys_);
    }
  }

  __device__ __forceinline__ void issue_scores(float (&scores)[32], const std::uint32_t (&q)[head_dim / 16][4],
                                               std::uint32_t stage) {
    const std::uint64_t k = operand(stage, 16, Layout::group_bytes);
#pragma unroll
    for (int i = 0; i < head_dim / 16; ++i) {
      product<T, 64, 0>(scores, q[i], advanced(k, i / 4 * Layout::half_bytes + i % 4 * 32), i != 0);
    }
    products_commit();
  }

  /// With `first`, whatever `out` holds is not added to.
  __device__ __forceinline__ void issue_values(float (&out)[head_dim / 2], const Probabilities& p, std::uint32_t stage,
                                               bool first) {
    const std::uint64_t v = operand(stage + Layout::plane_bytes, Layout::half_bytes, Layout::group_bytes);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      product<T, head_dim, 1>(out, p[i], advanced(v, i * 2 * Layout::group_bytes), i > 0 || !first);
    }
    products_commit();
  }

  /// Zeroes the values from the unit's end on: a probability of 0 does not undo a NaN.
  __device__ __forceinline__ void zero_beyond(const Unit& unit, int tile) {
    const int first = max(unit.max_end - tile * tile_tokens, 0);
    if (first >= tile_tokens) return;
#pragma unroll 1  // rare: short code counts
    for (int i = static_cast<int>(threadIdx.x % warpgroup); i < (tile_tokens - first) * (head_dim / 8);
         i += warpgroup) {
      const int token = first + i / (head_dim / 8), chunk = i % (head_dim / 8);
      *reinterpret_cast<uint4*>(shared_.stages[first_stage_ + values_.stage] + Layout::plane_bytes +
                                token / 8 * Layout::group_bytes + chunk / 8 * Layout::half_bytes + token % 8 * 128 +
                                chunk % 8 * 16) = make_uint4(0, 0, 0, 0);
    }
    ptx::fence_async();
    ptx::sync_threads(static_cast<int>(high_ ? Barrier::wide_high : Barrier::wide_low), warpgroup);
  }

  /// Only a unit's first tile holds tokens before its own.
  template <bool first>
  __device__ __forceinline__ void mask(const Unit& unit, int tile, float (&scores)[32]) const {
    const int begin = tile * tile_tokens;
    if (begin + tile_tokens <= unit.min_end && (!first || unit.lead == 0)) return;
    const int mine = begin + lane() % 4 * 2, lead = unit.lead - mine;  // counted from this lane's first token
    const int end[2] = {unit.row_end[first_row_] - mine, unit.row_end[first_row_ + 8] - mine};
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      const int token = i / 4 * 8 + i % 2;
      if ((first && token < lead) || token >= end[i / 2 % 2]) scores[i] = -INFINITY;
    }
  }

  /// To each row's highest score in the unit's first tile.
  __device__ __forceinline__ void set_reference(const float (&scores)[32], float (&reference)[2]) const {
#pragma unroll
    for (int h = 0; h < 2; ++h) reference[h] = fmaxf(-FLT_MAX, highest(scores, h) * scale_);
  }
  /// Of row h of the two that a lane has a part of.
  static __device__ __forceinline__ float highest(const float (&scores)[32], int h) {
    float high[2] = {scores[2 * h], scores[2 * h + 1]};
#pragma unroll
    for (int i = 4; i < 32; i += 4) {
      high[i / 4 % 2] = fmaxf(high[i / 4 % 2], fmaxf(scores[i + 2 * h], scores[i + 2 * h + 1]));
    }
    float all = fmaxf(high[0], high[1]);
    all = fmaxf(all, __shfl_xor_sync(~0u, all, 1));
    return fmaxf(all, __shfl_xor_sync(~0u, all, 2));
  }

  /// The scores as probabilities, A of the second product, and their sums, half a tile at a time. The scores stay.
  __device__ __forceinline__ void exponentials(const float (&scores)[32], const float (&reference)[2], float (&sum)[2],
                                               Probabilities& p) const {
#pragma unroll
    for (int half = 0; half < 32; half += 16) {
      float part[4];
#pragma unroll
      for (int i = 0; i < 16; i += 2) {
        float x[2];
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          x[j] = ptx::exp2(fmaf(scores[half + i + j], scale_, -reference[i / 2 % 2]));
          part[(i + j) % 4] = i < 4 ? x[j] : part[(i + j) % 4] + x[j];
        }
        p[(half + i) / 8][i / 2 % 4] = cuda::pack<T>(x[0], x[1]);
      }
      sum[0] += part[0] + part[1];
      sum[1] += part[2] + part[3];
    }
  }

  /// Scores of the tile are so far above their references that f16, or even f32, does not hold their exponentials.
  /// Nobody looks for the highest score of a tile before, as all that follows would wait for it. Now somebody does,
  /// what was summed before is scaled, and the exponentials are worked out again. Rare, so short code counts: the
  /// scores pass by in groups of four.
  __device__ __forceinline__ void move_reference(float (&scores)[32], float (&out)[head_dim / 2], float (&reference)[2],
                                                 float (&sum)[2], float (&added)[2], Probabilities& p) const {
    float factor[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float moved = fmaxf(reference[h], highest(scores, h) * scale_);
      factor[h] = ptx::exp2(reference[h] - moved);
      reference[h] = moved;
      sum[h] *= factor[h];
      added[h] = 0;
    }
#pragma unroll 1
    for (int group = 0; group < 8; ++group) {
      float four[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        four[i] = ptx::exp2(fmaf(scores[i], scale_, -reference[i / 2]));
        added[i / 2] += four[i];
      }
      auto& words = reinterpret_cast<std::uint32_t(&)[16]>(p);
#pragma unroll
      for (int i = 0; i < 28; ++i) scores[i] = scores[i + 4];
#pragma unroll
      for (int i = 0; i < 14; ++i) words[i] = words[i + 2];
      words[14] = cuda::pack<T>(four[0], four[1]);
      words[15] = cuda::pack<T>(four[2], four[3]);
    }
#pragma unroll
    for (int i = 0; i < head_dim / 2; ++i) out[i] *= factor[i / 2 % 2];
  }

  /// All but the last values. The first scores and the last values stand outside the loop: inside it there is nothing
  /// to decide but whether rows end. Their tiles do not have a loop of their own: longer code costs units of few tiles
  /// more than it saves others.
  __device__ __forceinline__ void attend(const Unit& unit, const std::uint32_t (&q)[head_dim / 16][4], Probabilities& p,
                                         float (&out)[head_dim / 2], float (&reference)[2], float (&sum)[2]) {
#pragma unroll
    for (int h = 0; h < 2; ++h) sum[h] = 0;
    float scores[32];
    {
      wait_keys();
      products_begin();
      issue_scores(scores, q, address_of(keys_));
      products_wait<0>();
      release_keys();
      mask<true>(unit, 0, scores);
      set_reference(scores, reference);
      exponentials(scores, reference, sum, p);
    }
    const int num_tiles = __shfl_sync(~0u, unit.num_tiles, 0);  // known to be the same in all lanes
    const int whole_tiles = __shfl_sync(~0u, min(num_tiles, unit.min_end / tile_tokens), 0);
    bool ready = false;
    for (int tile = 1; tile < num_tiles; ++tile) {
      attend_tile(unit, tile, tile >= whole_tiles, q, scores, p, out, reference, sum, ready);
    }
  }

  /// The values of the unit's last tile.
  __device__ __forceinline__ void finish(const Probabilities& p, float (&out)[head_dim / 2]) {
    const Unit& unit = shared_.wide_units[unit_.stage];
    wait_values();
    zero_beyond(unit, unit.num_tiles - 1);
    products_begin();
    issue_values(out, p, address_of(values_), unit.num_tiles == 1);
    products_wait<0>();
    release_values(keys_);
  }
  __device__ __forceinline__ void leave_unit() {
    __syncwarp();
    if (lane() == 0) ptx::barrier_arrive(&shared_.barriers.wide_units.empty[unit_.stage]);
    unit_.advance(num_wide_slots);
  }

  /// The scores of a tile and the values of the one before it, whose probabilities `p` brings.
  ///   ends   rows may end in either tile: scores are masked, or values zeroed
  ///   ready  whether both were seen to be there, so that nothing is waited for; then the same of the next step
  __device__ __forceinline__ void attend_tile(const Unit& unit, int tile, bool ends,
                                              const std::uint32_t (&q)[head_dim / 16][4], float (&scores)[32],
                                              Probabilities& p, float (&out)[head_dim / 2], float (&reference)[2],
                                              float (&sum)[2], bool& ready) {
    const std::uint32_t k_stage = address_of(keys_), v_stage = address_of(values_);
    if (!ready) {
      wait_keys();
      wait_values();
    }
    products_begin();
    issue_scores(scores, q, k_stage);
    if (ends) zero_beyond(unit, tile - 1);
    products_begin();
    issue_values(out, p, v_stage, tile == 1);
    const Ring scored = keys_;
    products_wait<1>();
    release_keys();
    const StageBarriers& full = shared_.barriers.wide;
    ready = ptx::barrier_passed(&full.k_full[keys_.stage], keys_.parity) &
            ptx::barrier_passed(&full.v_full[scored.stage], scored.parity);
    if (ends) mask<false>(unit, tile, scores);
    // Exponentials under the values would be no faster: the other warpgroup's products run under them as it is.
    products_wait<0>();
    products_are_in(scores);
    release_values(scored);
    float added[2] = {0, 0};
    exponentials(scores, reference, added, p);
    if (__any_sync(~0u, fmaxf(added[0], added[1]) > headroom)) [[unlikely]] {
      move_reference(scores, out, reference, sum, added, p);
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) sum[h] += added[h];
  }

  __device__ __forceinline__ void write(const Unit& unit, const float (&out)[head_dim / 2], const float (&reference)[2],
                                        float (&sum)[2]) const {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      sum[h] += __shfl_xor_sync(~0u, sum[h], 1);
      sum[h] += __shfl_xor_sync(~0u, sum[h], 2);
      const int row = first_row_ + h * 8;
      const bool valid = row < unit.num_rows;
      const float factor = sum[h] > 0 ? ptx::reciprocal(sum[h]) : 0;
      const RowTarget to = target_of<T>(args_.params.attention, unit.head, unit.partial_begin, row, unit.q_index[row],
                                        query_head(unit, row));
      if (unit.partial_begin >= 0) {
        float* const at = static_cast<float*>(to.out) + lane() % 4 * 2;
#pragma unroll
        for (int i = 0; i < head_dim / 8; ++i) {
          ptx::store_if(valid, at + i * 8, out[i * 4 + h * 2] * factor, out[i * 4 + h * 2 + 1] * factor);
        }
      } else if (valid) {
#pragma unroll
        for (int i = 0; i < head_dim / 8; ++i) {
          store_pair<!general>(static_cast<T*>(to.out) + i * 8 + lane() % 4 * 2, out[i * 4 + h * 2] * factor,
                               out[i * 4 + h * 2 + 1] * factor);
        }
      }
      if (!valid) continue;
      if (lane() % 4 == 0) write_lse(to.lse, reference[h], sum[h]);
    }
  }

  const Arguments& args_;
  SharedMemory<head_dim>& shared_;
  const CtaWork::Lane& work_;
  int first_stage_, units_left_;
  bool high_;
  int first_row_;
  float scale_;          // positive, so that -inf stays -inf
  std::uint32_t empty_;  // the wide ring's barriers of the CTA that this lane tells
  Ring keys_, values_;   // of the next tile whose scores, and values, are to be computed
  Ring unit_, queries_;  // the unit at hand; the next whose queries are to be loaded
};

}  // namespace trunkline::kernels::sm90
