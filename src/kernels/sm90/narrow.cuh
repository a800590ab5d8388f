// The narrow lane: up to 16 rows, bound by bytes. One warpgroup; 64 tokens of KV are the M of wgmma and the rows its N,
//     S^T = K Q^T,    P^T = exp(S^T - reference),    O^T += V^T P^T,
// so that a handful of rows wastes nothing. The tiles of the CTA's units form one stream: the scores of the next tile,
// of the next unit too, are computed under the softmax of this one, and one barrier per tile is all that the warps,
// which hold 16 tokens each, need to agree.
#pragma once

#include "kernels/sm90/layout.cuh"
#include "kernels/sm90/units.cuh"
#include "kernels/sm90/wgmma.cuh"
#include "kernels/sm90/write_rows.cuh"

namespace trunkline::kernels::sm90 {

template <class T, int head_dim>
class NarrowConsumer {
  using Layout = StageLayout<head_dim>;
  static constexpr int halves = Layout::halves;

 public:
  __device__ NarrowConsumer(const Arguments& args, SharedMemory<head_dim>& shared, int ring_size)
      : args_(args), shared_(shared), ring_size_(ring_size) {}

  /// `more`: the CTA has narrow units.
  __device__ void run(bool more) {
    more_ = more;
    while (more_) {
      wait_unit(unit_);
      // In this order: the compiler then puts the code of the common units first (kernel.cuh says why).
      if (padded_rows(slot(unit_).num_rows) == 16) {
        run_units<16>();
      } else {
        run_units<8>();
      }
    }
  }

 private:
  using Slot = NarrowSlot;

  // How far, base 2, scores may be above the reference before it moves, and those of a row's first tile below it: f16
  // probabilities overflow, and lose precision far below 1; bf16 has the range of the sums.
  static constexpr bool is_f16 = std::is_same_v<T, __half>;
  static constexpr float headroom = is_f16 ? 8.0f : 32.0f, footroom = is_f16 ? -6.0f : -32.0f;

  template <int N>
  struct State {
    static constexpr int columns = N / 4;  // rows of the batch that a thread has a part of: two per 8
    float out[halves][N / 2];
    float reference[columns], sum[columns];  // base 2; sums over this thread's tokens
    int tile;
    bool unwritten;  // the unit before is written when its last values are in
  };

  /// Unit after unit of up to N rows, until the stream ends or the width changes.
  template <int N>
  __device__ __forceinline__ void run_units() {
    State<N> state;
    state.tile = 0;
    state.unwritten = false;
    float a[N / 2], b[N / 2];
    ptx::barrier_wait(&shared_.barriers.narrow.k_full[keys_.stage], keys_.parity);
    issue_scores<N>(a, keys_.stage, unit_.stage);
    products_wait<0>();
    products_are_in(a);
    release_keys();
    while (step(state, a, b)) {
#pragma unroll
      for (int i = 0; i < N / 2; ++i) a[i] = b[i];
    }
    hand_over_sums(state);
    products_wait<0>();
    values_are_in(state);
    release_values();
    ptx::sync_threads(static_cast<int>(Barrier::narrow), warpgroup);
    write_unit(state);
  }

  /// One tile, whose scores are here: `next` becomes those of the next one. False at the end of the run.
  template <int N>
  __device__ __forceinline__ bool step(State<N>& state, float (&scores)[N / 2], float (&next)[N / 2]) {
    const Slot& unit = slot(unit_);
    const int tile = state.tile;
    const bool last = tile + 1 == unit.num_tiles;
    // Without a next tile some stage is scored for nothing: wgmma wants no decisions while it runs.
    Ring next_unit = unit_;
    bool more = true;
    if (last) {
      next_unit.advance(num_narrow_slots);
      more_ = more = unit.last == 0;
      if (more) {
        wait_unit(next_unit);
        more = padded_rows(slot(next_unit).num_rows) == N;
      }
    }
    if (more) ptx::barrier_wait(&shared_.barriers.narrow.k_full[keys_.stage], keys_.parity);
    issue_scores<N>(next, keys_.stage, more ? next_unit.stage : unit_.stage);

    if (tile == 0) {
      if (state.unwritten) hand_over_sums(state);
#pragma unroll
      for (int c = 0; c < State<N>::columns; ++c) state.reference[c] = state.sum[c] = 0;
    }
    const int begin = tile * tile_tokens;
    std::uint8_t* const v = shared_.stages[values_.stage] + Layout::plane_bytes;
    ptx::barrier_wait(&shared_.barriers.narrow.v_full[values_.stage], values_.parity);
    if (begin + tile_tokens > unit.zero_from) zero_tokens(v, unit, begin);
    std::uint32_t p[N / 4];
    float tile_sum[State<N>::columns];
    bool moves = false;
#pragma unroll
    for (int i = 0; i < N / 2; ++i) scores[i] *= args_.scale_log2;
    if (begin + tile_tokens > unit.min_end || (tile == 0 && unit.lead > 0)) mask<N>(unit, begin, scores);
#pragma unroll
    for (int i = 0; i < N / 2; ++i) moves |= scores[i] > state.reference[column(i)] + headroom;
    if (tile == 0 || (N <= packed_rows && unit.min_end == 0)) moves |= far_below<N>(unit, begin, scores);
    probabilities<N>(state, scores, p, tile_sum);
    const std::uint32_t p_at = ptx::shared_address(shared_.narrow_p[p_buffer_]);
    store_probabilities<N>(p_at, p);
    ptx::fence_async();

    products_wait<0>();  // the values of the last tile and the next scores, under this softmax
    values_are_in(state);
    products_are_in(next);
    if (more) release_keys();
    if (tile > 0 || state.unwritten) release_values();
    moves = ptx::sync_threads_or(static_cast<int>(Barrier::narrow), warpgroup, moves);
    if (tile == 0 && state.unwritten) write_unit(state);
    if (moves) {
      move_reference<N>(unit, state, scores, p, tile_sum);
      store_probabilities<N>(p_at, p);
      ptx::fence_async();
      ptx::sync_threads(static_cast<int>(Barrier::narrow), warpgroup);
    }
    add_values<N>(state, ptx::shared_address(v), p_at);
#pragma unroll
    for (int c = 0; c < State<N>::columns; ++c) state.sum[c] += tile_sum[c];
    values_.advance(ring_size_);
    p_buffer_ ^= 1;
    ++state.tile;
    if (last) {
      state.tile = 0;
      state.unwritten = true;
      unit_.advance(num_narrow_slots);
    }
    return more;
  }

  // A thread's scores i are of batch row 8 * (i / 4) + 2 * (lane % 4) + i % 2 and token 16 * warp + lane / 4 (+ 8).
  static __device__ __forceinline__ int column(int i) { return i / 4 * 2 + i % 2; }
  static __device__ __forceinline__ int row_of(int column) {
    return column / 2 * 8 + static_cast<int>(threadIdx.x % 4) * 2 + column % 2;
  }
  static __device__ __forceinline__ int warp() { return static_cast<int>(threadIdx.x / 32 % 4); }
  static __device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x % 32); }
  __device__ __forceinline__ Slot& slot(const Ring& unit) { return shared_.narrow_units[unit.stage]; }
  __device__ __forceinline__ void wait_unit(const Ring& unit) {
    ptx::barrier_wait(&shared_.barriers.narrow_units.full[unit.stage], unit.parity);
  }

  template <int N>
  __device__ __forceinline__ void issue_scores(float (&scores)[N / 2], int stage, int q_slot) {
    const std::uint64_t k = operand(ptx::shared_address(shared_.stages[stage]), 16, Layout::group_bytes);
    const std::uint64_t q = operand(ptx::shared_address(shared_.narrow_q[q_slot]), 16, 1024);
    products_begin();
#pragma unroll
    for (int i = 0; i < head_dim / 16; ++i) {
      product<T, N, 0>(scores, k + (i / 4 * Layout::half_bytes + i % 4 * 32) / 16,
                       q + (i / 4 * N * 128 + i % 4 * 32) / 16, i != 0);
    }
    products_commit();
  }

  template <int N>
  __device__ __forceinline__ void add_values(State<N>& state, std::uint32_t v_at, std::uint32_t p_at) {
    const std::uint64_t v = operand(v_at, Layout::half_bytes, Layout::group_bytes), p = operand(p_at, 16, 1024);
    products_begin();
#pragma unroll
    for (int h = 0; h < halves; ++h) {
#pragma unroll
      for (int i = 0; i < tile_tokens / 16; ++i) {
        product<T, N, 1>(state.out[h], v + (h * Layout::half_bytes + i * 2 * Layout::group_bytes) / 16, p + i * 32 / 16,
                         state.tile > 0 || i > 0);
      }
    }
    products_commit();
  }

  template <int N>
  static __device__ __forceinline__ void values_are_in(State<N>& state) {
#pragma unroll
    for (int h = 0; h < halves; ++h) products_are_in(state.out[h]);
  }

  __device__ __forceinline__ void release_keys() {
    if (lane() == 0) ptx::barrier_arrive(&shared_.barriers.narrow.k_empty[keys_.stage]);
    keys_.advance(ring_size_);
  }
  __device__ __forceinline__ void release_values() {
    if (lane() == 0) ptx::barrier_arrive(&shared_.barriers.narrow.v_empty[done_.stage]);
    done_.advance(ring_size_);
  }

  /// Zeroes the values that no row sees, from max_end of each head on: a probability of 0 does not undo a NaN. Whole
  /// rows, so that the swizzle, which moves what is within one, does not matter.
  static __device__ __forceinline__ void zero_tokens(std::uint8_t* v, const Slot& unit, int begin) {
    constexpr int chunks = head_dim / 8, tokens_at_once = warpgroup / chunks;
    const int thread = static_cast<int>(threadIdx.x % warpgroup), chunk = thread % chunks, token = thread / chunks;
    unsigned seen[2];  // of the tile's tokens, a bit each
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int at = begin + i * 32 + lane(), head = small_quotient(at, unit.period);
      seen[i] = __ballot_sync(~0u, at < unit.end && at - head * unit.period < unit.max_end) >> token;
    }
    std::uint8_t* const to = v + token / group_tokens * Layout::group_bytes + chunk / 8 * Layout::half_bytes +
                             token % group_tokens * 128 + chunk % 8 * 16;
#pragma unroll
    for (int at = 0; at < tile_tokens; at += tokens_at_once) {
      if ((seen[at / 32] >> at % 32 & 1) == 0) {
        *reinterpret_cast<uint4*>(to + at / group_tokens * Layout::group_bytes) = make_uint4(0, 0, 0, 0);
      }
    }
  }

  /// The first token that the row of a column may see. Units of more rows are of one head.
  template <int N>
  static __device__ __forceinline__ int first_token(const Slot& unit, int column) {
    if constexpr (N <= packed_rows) return unit.row_first[row_of(column)];
    return unit.lead;
  }

  template <int N>
  __device__ __forceinline__ void mask(const Slot& unit, int begin, float (&scores)[N / 2]) {
    const int token = begin + warp() * 16 + lane() / 4;
    int firsts[State<N>::columns], ends[State<N>::columns];
#pragma unroll
    for (int c = 0; c < State<N>::columns; ++c) {
      firsts[c] = first_token<N>(unit, c);
      ends[c] = unit.row_end[row_of(c)];
    }
#pragma unroll
    for (int i = 0; i < N / 2; ++i) {
      const int at = token + i / 2 % 2 * 8;
      const int after = static_cast<int>(at >= firsts[column(i)]), before = static_cast<int>(at < ends[column(i)]);
      const int seen = after & before;  // && would branch
      scores[i] = seen != 0 ? scores[i] : -INFINITY;
    }
  }

  /// Whether some row's scores are all far below 0, the first reference, in the first tile of which the row sees a
  /// token: all in this warp's tokens for f16; for bf16, whose bound few scores reach, all in this thread's.
  template <int N>
  static __device__ __forceinline__ bool far_below(const Slot& unit, int begin, const float (&scores)[N / 2]) {
    bool below = false;
#pragma unroll
    for (int i = 0; i < N / 2; i += 4) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float high = fmaxf(scores[i + j], scores[i + j + 2]);
        const bool seen = high > -INFINITY && first_token<N>(unit, column(i + j)) >= begin;
        if constexpr (is_f16) {
          const unsigned mine = 0x11111111u << (lane() % 4);  // lanes that hold the same row
          const unsigned near = __ballot_sync(~0u, high > footroom) & mine;
          below |= (__ballot_sync(~0u, seen) & mine) != 0 && near == 0;
        } else {
          below |= seen && high < footroom;
        }
      }
    }
    return below;
  }

  template <int N>
  static __device__ __forceinline__ void probabilities(const State<N>& state, const float (&scores)[N / 2],
                                                       std::uint32_t (&p)[N / 4], float (&sum)[N / 4]) {
#pragma unroll
    for (int c = 0; c < N / 4; c += 2) {
      const int i = c * 2;  // tokens t: scores i, i + 1 of the rows of columns c, c + 1; tokens t + 8: i + 2, i + 3
      const float a = ptx::exp2(scores[i] - state.reference[c]), b = ptx::exp2(scores[i + 1] - state.reference[c + 1]);
      const float e = ptx::exp2(scores[i + 2] - state.reference[c]),
                  f = ptx::exp2(scores[i + 3] - state.reference[c + 1]);
      sum[c] = a + e;
      sum[c + 1] = b + f;
      p[c] = cuda::pack<T>(a, b);
      p[c + 1] = cuda::pack<T>(e, f);
    }
  }

  /// P^T lies as B: a row's 64 tokens side by side, one swizzled tile per 8 rows.
  template <int N>
  static __device__ __forceinline__ void store_probabilities(std::uint32_t to, const std::uint32_t (&p)[N / 4]) {
    const int row = lane() % 8, chunk = 2 * warp() + lane() / 8 % 2;
#pragma unroll
    for (int j = 0; j < N / 8; ++j) {
      ptx::store_transposed(to + j * 1024 + row * 128 + (chunk ^ row) * 16, p[2 * j], p[2 * j + 1]);
    }
  }

  /// The rare case: some score is too far from its row's reference. Moves every row's reference to the largest score so
  /// far and computes this tile's probabilities again.
  template <int N>
  __device__ __forceinline__ void move_reference(const Slot& unit, State<N>& state, const float (&scores)[N / 2],
                                                 std::uint32_t (&p)[N / 4], float (&sum)[N / 4]) {
    constexpr int columns = State<N>::columns;
    auto* const exchange =
        reinterpret_cast<float (*)[max_narrow_rows]>(shared_.narrow_p[p_buffer_]);  // about to be rewritten
    float high[columns];
#pragma unroll
    for (int c = 0; c < columns; ++c) {
      const int i = c / 2 * 4 + c % 2;
      high[c] = fmaxf(scores[i], scores[i + 2]);
#pragma unroll
      for (int x = 4; x < 32; x *= 2) high[c] = fmaxf(high[c], __shfl_xor_sync(~0u, high[c], x));
    }
    if (lane() < 4) {
#pragma unroll
      for (int c = 0; c < columns; ++c) exchange[warp()][row_of(c)] = high[c];
    }
    ptx::sync_threads(static_cast<int>(Barrier::narrow), warpgroup);
#pragma unroll
    for (int c = 0; c < columns; ++c) {
      const int row = row_of(c);
      high[c] = fmaxf(fmaxf(exchange[0][row], exchange[1][row]), fmaxf(exchange[2][row], exchange[3][row]));
    }
    ptx::sync_threads(static_cast<int>(Barrier::narrow), warpgroup);
#pragma unroll
    for (int c = 0; c < columns; ++c) {
      const int i = c / 2 * 4 + c % 2;
      const float old = state.reference[c];
      const bool first = first_token<N>(unit, c) >= state.tile * tile_tokens;  // nothing is summed before
      float moved = first ? high[c] : fmaxf(high[c], old);
      if (moved == -INFINITY) moved = old;  // no token seen yet
      const float factor = first ? 1 : ptx::exp2(old - moved);
      state.reference[c] = moved;
      state.sum[c] *= factor;
#pragma unroll
      for (int h = 0; h < halves; ++h) {
        state.out[h][i] *= factor;
        state.out[h][i + 2] *= factor;
      }
    }
    probabilities<N>(state, scores, p, sum);
  }

  /// The sums of the unit whose last values are on their way, to all warps.
  template <int N>
  __device__ __forceinline__ void hand_over_sums(State<N>& state) {
    const int slot = unwritten_.stage % 2;
#pragma unroll
    for (int c = 0; c < State<N>::columns; ++c) {
#pragma unroll
      for (int x = 4; x < 32; x *= 2) state.sum[c] += __shfl_xor_sync(~0u, state.sum[c], x);
      if (lane() < 4) {
        shared_.narrow_sums[slot][row_of(c)][warp()] = state.sum[c];
        shared_.narrow_references[slot][row_of(c)] = state.reference[c];
      }
    }
  }
  static_assert(num_narrow_slots % 2 == 0);

  /// After a barrier after hand_over_sums, and with the last values in. Every short unit waits for this code, so that
  /// it has few branches and each warp takes the log-sum-exp of a column of its own.
  template <int N>
  __device__ __forceinline__ void write_unit(State<N>& state) {
    constexpr int columns = State<N>::columns;
    const Slot& unit = slot(unwritten_);
    const int num_rows = unit.num_rows, d = warp() * 16 + lane() / 4;
    const auto sum_of = [&](int row) {
      const float4 sums = *reinterpret_cast<const float4*>(shared_.narrow_sums[unwritten_.stage % 2][row]);
      return sums.x + sums.y + sums.z + sums.w;
    };
    void* out[columns];
#pragma unroll
    for (int c = 0; c < columns; ++c) {
      const float sum = sum_of(row_of(c)), factor = sum > 0 ? ptx::reciprocal(sum) : 0;
      out[c] = unit.to[row_of(c)].out;
#pragma unroll
      for (int h = 0; h < halves; ++h) {
        state.out[h][c / 2 * 4 + c % 2] *= factor;
        state.out[h][c / 2 * 4 + c % 2 + 2] *= factor;
      }
    }
    const auto store = [&]<class Element>(Element (*rounded)(float)) {
#pragma unroll
      for (int c = 0; c < columns; ++c) {
        auto* const to = static_cast<Element*>(out[c]) + d;
        const int i = c / 2 * 4 + c % 2;
#pragma unroll
        for (int h = 0; h < halves; ++h) {
          ptx::store_if(row_of(c) < num_rows, to + h * 64, rounded(state.out[h][i]));
          ptx::store_if(row_of(c) < num_rows, to + h * 64 + 8, rounded(state.out[h][i + 2]));
        }
      }
    };
    if (unit.partial_begin >= 0) {
      store(as_it_is);
    } else {
      store(rounded_bits<T>);
    }
    const int row = row_of(warp());  // column warp() of this lane
    if (warp() < columns && lane() < 4 && row < num_rows) {
      write_lse(unit.to[row].lse, shared_.narrow_references[unwritten_.stage % 2][row], sum_of(row));
    }
    __syncwarp();
    if (lane() == 0) ptx::barrier_arrive(&shared_.barriers.narrow_units.empty[unwritten_.stage]);
    unwritten_.advance(num_narrow_slots);
  }

  const Arguments& args_;
  SharedMemory<head_dim>& shared_;
  int ring_size_;
  bool more_ = false;          // units that are not yet begun
  Ring keys_, values_, done_;  // the tile whose keys come next, whose values come next, and whose values are in use
  Ring unit_, unwritten_;      // the one that is being worked on, the oldest whose result is not yet written
  int p_buffer_ = 0;
};

}  // namespace trunkline::kernels::sm90
