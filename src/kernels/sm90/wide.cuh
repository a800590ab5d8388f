// The wide lane: up to 128 rows, bound by the matrix rate. Each of two warpgroups has 64 rows, with their queries,
// scores and results in registers:
//     S = Q K^T,    P = exp(S - reference),    O += P V.
// The scores of a tile are issued before the values of the tile before it, so that its softmax runs under them; the
// other warpgroup's products fill what remains.
#pragma once

#include <cfloat>

#include "kernels/sm90/layout.cuh"
#include "kernels/sm90/wgmma.cuh"
#include "kernels/sm90/write_rows.cuh"

namespace trunkline::kernels::sm90 {

template <class T, int head_dim, bool general>
class WideConsumer {
  using Layout = StageLayout<head_dim>;

 public:
  __device__ WideConsumer(const Arguments& args, SharedMemory<head_dim>& shared, int first_stage, int units)
      : args_(args),
        shared_(shared),
        first_stage_(first_stage),
        units_left_(units),
        high_(threadIdx.x / warpgroup == static_cast<unsigned>(Role::wide_high)),
        first_row_(static_cast<int>(high_ * 64 + threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4)),
        scale_(fmaxf(fabsf(args.scale_log2), FLT_MIN)) {}

  __device__ void run() {
    if (units_left_ == 0) return;
    std::uint32_t q[head_dim / 16][4];
    load_next_queries(q);
    for (; units_left_ > 0; --units_left_) {
      const Unit& unit = shared_.wide_units[unit_.stage];
      float out[head_dim / 2], reference[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
#pragma unroll
      for (int i = 0; i < head_dim / 2; ++i) out[i] = 0;
      if (unit.num_rows > (high_ ? 64 : 0)) {
        attend(unit, q, out, reference, sum);
        write(unit, out, reference, sum);
      } else {
        skip(unit);
        if (units_left_ > 1) load_next_queries(q);
      }
      __syncwarp();
      if (lane() == 0) ptx::barrier_arrive(&shared_.barriers.wide_units.empty[unit_.stage]);
      unit_.advance(num_wide_slots);
    }
  }

 private:
  using Unit = WideSlot;

  __device__ __forceinline__ int query_head(const Unit& unit, int row) const {
    return unit.head * args_.params.attention.group_size + args_.group.remainder(unit.row_begin + row);
  }
  static __device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x % 32); }

  /// Of the unit after the last whose queries were loaded, as A of the products. Rows beyond the unit's last repeat it:
  /// what becomes of them is not written. All loads are issued before the first result is used.
  __device__ __forceinline__ void load_next_queries(std::uint32_t (&q)[head_dim / 16][4]) {
    const AttentionParams& a = args_.params.attention;
    ptx::barrier_wait(&shared_.barriers.wide_units.full[queries_.stage], queries_.parity);
    const Unit& unit = shared_.wide_units[queries_.stage];
    queries_.advance(num_wide_slots);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = min(first_row_ + 8 * h, unit.num_rows - 1);
      const cuda::RowPlace place{unit.q_index[row], query_head(unit, row)};
      const T* const from = cuda::row_of<T>(a.q, place) + lane() % 4 * 2;
      const auto pair = [&](int d) {
        if constexpr (!general) return *reinterpret_cast<const std::uint32_t*>(from + d);
        const auto* const halves = reinterpret_cast<const std::uint16_t*>(from);
        return halves[d] | static_cast<std::uint32_t>(halves[d + 1]) << 16;
      };
#pragma unroll
      for (int k = 0; k < head_dim / 16; ++k) {
        q[k][h] = pair(k * 16);
        q[k][h + 2] = pair(k * 16 + 8);
      }
    }
    if (args_.q_sign == 0) return;
#pragma unroll
    for (int k = 0; k < head_dim / 16; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) q[k][i] ^= args_.q_sign;
    }
  }

  __device__ __forceinline__ std::uint8_t* k_stage() const { return shared_.stages[first_stage_ + keys_.stage]; }
  __device__ __forceinline__ std::uint8_t* v_stage() const {
    return shared_.stages[first_stage_ + values_.stage] + Layout::plane_bytes;
  }
  __device__ __forceinline__ void wait_keys() {
    ptx::barrier_wait(&shared_.barriers.wide.k_full[keys_.stage], keys_.parity);
  }
  __device__ __forceinline__ void wait_values() {
    ptx::barrier_wait(&shared_.barriers.wide.v_full[values_.stage], values_.parity);
  }
  __device__ __forceinline__ void release_keys() {
    if (lane() == 0) ptx::barrier_arrive(&shared_.barriers.wide.k_empty[keys_.stage]);
    keys_.advance(num_stages - first_stage_);
  }
  __device__ __forceinline__ void release_values() {
    if (lane() == 0) ptx::barrier_arrive(&shared_.barriers.wide.v_empty[values_.stage]);
    values_.advance(num_stages - first_stage_);
  }

  /// The unit has no rows for this warpgroup.
  __device__ __forceinline__ void skip(const Unit& unit) {
    for (int tile = 0; tile < unit.num_tiles; ++tile) {
      wait_keys();
      release_keys();
      wait_values();
      release_values();
    }
  }

  __device__ __forceinline__ void issue_scores(float (&scores)[32], const std::uint32_t (&q)[head_dim / 16][4]) {
    const std::uint64_t k = operand(ptx::shared_address(k_stage()), 16, Layout::group_bytes);
    products_begin();
#pragma unroll
    for (int i = 0; i < head_dim / 16; ++i) {
      product<T, 64, 0>(scores, q[i], k + (i / 4 * Layout::half_bytes + i % 4 * 32) / 16, i != 0);
    }
    products_commit();
  }

  __device__ __forceinline__ void issue_values(float (&out)[head_dim / 2], const std::uint32_t (&p)[4][4]) {
    const std::uint64_t v = operand(ptx::shared_address(v_stage()), Layout::half_bytes, Layout::group_bytes);
    products_begin();
#pragma unroll
    for (int i = 0; i < 4; ++i) product<T, head_dim, 1>(out, p[i], v + i * 2 * Layout::group_bytes / 16, 1);
    products_commit();
  }

  /// Zeroes the values from the unit's end on: a probability of 0 does not undo a NaN.
  __device__ __forceinline__ void zero_beyond(const Unit& unit, int tile) {
    const int first = max(unit.max_end - tile * tile_tokens, 0);
    if (first >= tile_tokens) return;
    for (int i = static_cast<int>(threadIdx.x % warpgroup); i < (tile_tokens - first) * (head_dim / 8);
         i += warpgroup) {
      const int token = first + i / (head_dim / 8), chunk = i % (head_dim / 8);
      *reinterpret_cast<uint4*>(v_stage() + token / 8 * Layout::group_bytes + chunk / 8 * Layout::half_bytes +
                                token % 8 * 128 + chunk % 8 * 16) = make_uint4(0, 0, 0, 0);
    }
    ptx::fence_async();
    ptx::sync_threads(static_cast<int>(high_ ? Barrier::wide_high : Barrier::wide_low), warpgroup);
  }

  __device__ __forceinline__ void mask(const Unit& unit, int tile, float (&scores)[32]) const {
    const int begin = tile * tile_tokens;
    if (begin + tile_tokens <= unit.min_end && (tile > 0 || unit.lead == 0)) return;
    const int end[2] = {unit.row_end[first_row_], unit.row_end[first_row_ + 8]};
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      const int token = begin + i / 4 * 8 + lane() % 4 * 2 + i % 2;
      if (token < unit.lead || token >= end[i / 2 % 2]) scores[i] = -INFINITY;
    }
  }

  /// Scores become probabilities. Returns whether out has to be multiplied by `factor`: the reference moves only when a
  /// score exceeds it by a factor of 256.
  __device__ __forceinline__ bool softmax(float (&scores)[32], float (&reference)[2], float (&sum)[2],
                                          float (&factor)[2]) const {
    constexpr float headroom = 8.0f;
    float high[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float a = scores[h * 2], b = scores[h * 2 + 1];
#pragma unroll
      for (int i = 1; i < 8; ++i) {
        a = fmaxf(a, scores[i * 4 + h * 2]);
        b = fmaxf(b, scores[i * 4 + h * 2 + 1]);
      }
      high[h] = fmaxf(reference[h], fmaxf(a, b));
      high[h] = fmaxf(high[h], __shfl_xor_sync(~0u, high[h], 1));
      high[h] = fmaxf(high[h], __shfl_xor_sync(~0u, high[h], 2));
    }
    const bool moves =
        __any_sync(~0u, (high[0] - reference[0]) * scale_ > headroom || (high[1] - reference[1]) * scale_ > headroom);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      factor[h] = 1;
      if (moves && high[h] > reference[h]) {
        factor[h] = ptx::exp2((reference[h] - high[h]) * scale_);
        reference[h] = high[h];
        sum[h] *= factor[h];
      }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float offset = reference[h] == -INFINITY ? 0 : reference[h] * scale_;  // -inf: nothing seen yet
      float a = 0, b = 0;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        float &x = scores[i * 4 + h * 2], &y = scores[i * 4 + h * 2 + 1];
        x = ptx::exp2(x * scale_ - offset);
        y = ptx::exp2(y * scale_ - offset);
        a += x;
        b += y;
      }
      sum[h] += a + b;
    }
    return moves;
  }

  static __device__ __forceinline__ void pack(const float (&scores)[32], std::uint32_t (&p)[4][4]) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) p[k][i] = cuda::pack<T>(scores[k * 8 + i * 2], scores[k * 8 + i * 2 + 1]);
    }
  }

  /// The first scores and the last values stand outside the loop: inside it there is nothing to decide.
  __device__ __forceinline__ void attend(const Unit& unit, std::uint32_t (&q)[head_dim / 16][4],
                                         float (&out)[head_dim / 2], float (&reference)[2], float (&sum)[2]) {
    std::uint32_t p[4][4];
    {
      float scores[32], factor[2];
      wait_keys();
      issue_scores(scores, q);
      products_wait<0>();
      release_keys();
      mask(unit, 0, scores);
      softmax(scores, reference, sum, factor);
      pack(scores, p);
    }
    for (int tile = 1; tile < unit.num_tiles; ++tile) {
      float scores[32], factor[2];
      wait_keys();
      issue_scores(scores, q);
      wait_values();
      if (tile * tile_tokens > unit.max_end) zero_beyond(unit, tile - 1);
      issue_values(out, p);
      products_wait<1>();
      release_keys();
      mask(unit, tile, scores);
      const bool moves = softmax(scores, reference, sum, factor);
      ptx::keep_before(sum[0] + sum[1], ptx::shared_address(&shared_));
      products_wait<0>();
      release_values();
      if (moves) {
#pragma unroll
        for (int i = 0; i < head_dim / 2; ++i) out[i] *= factor[i / 2 % 2];
      }
      pack(scores, p);
    }
    if (units_left_ > 1) load_next_queries(q);
    wait_values();
    zero_beyond(unit, unit.num_tiles - 1);
    issue_values(out, p);
    products_wait<0>();
    release_values();
  }

  __device__ __forceinline__ void write(const Unit& unit, const float (&out)[head_dim / 2], const float (&reference)[2],
                                        float (&sum)[2]) const {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      sum[h] += __shfl_xor_sync(~0u, sum[h], 1);
      sum[h] += __shfl_xor_sync(~0u, sum[h], 2);
      const int row = first_row_ + h * 8;
      const bool valid = row < unit.num_rows;
      const float factor = sum[h] > 0 ? 1 / sum[h] : 0;
      const RowTarget to = target_of<T>(args_.params.attention, unit.head, unit.partial_begin, row, unit.q_index[row],
                                        query_head(unit, row));
      if (unit.partial_begin >= 0) {
        // Neighbouring lanes trade pairs, so that each has four elements side by side: of column block i the even lane,
        // of block i + 1 the odd one.
        const bool odd = lane() % 2 == 1;
        float* const at = static_cast<float*>(to.out) + odd * 8 + lane() % 4 / 2 * 4;
#pragma unroll
        for (int i = 0; i < head_dim / 8; i += 2) {
          const int a = i * 4 + h * 2, b = a + 4;
          const float low = __shfl_xor_sync(~0u, odd ? out[a] : out[b], 1);
          const float high = __shfl_xor_sync(~0u, odd ? out[a + 1] : out[b + 1], 1);
          const float4 four =
              odd ? make_float4(low, high, out[b], out[b + 1]) : make_float4(out[a], out[a + 1], low, high);
          if (!valid) continue;
          *reinterpret_cast<float4*>(at + i * 8) =
              make_float4(four.x * factor, four.y * factor, four.z * factor, four.w * factor);
        }
      } else if (valid) {
#pragma unroll
        for (int i = 0; i < head_dim / 8; ++i) {
          store_pair<!general>(static_cast<T*>(to.out) + i * 8 + lane() % 4 * 2, out[i * 4 + h * 2] * factor,
                               out[i * 4 + h * 2 + 1] * factor);
        }
      }
      if (!valid) continue;
      if (lane() % 4 == 0) write_lse(to.lse, reference[h] * scale_, sum[h]);
    }
  }

  const Arguments& args_;
  SharedMemory<head_dim>& shared_;
  int first_stage_, units_left_;
  bool high_;
  int first_row_;
  float scale_;  // positive, so that -inf stays -inf
  Ring keys_, values_;
  Ring unit_, queries_;  // the unit at hand; the next whose queries are to be loaded
};

}  // namespace trunkline::kernels::sm90
