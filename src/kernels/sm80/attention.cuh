// The plain CUDA kernel: a plan's items with mma.sync and cp.async, then its merges in a second launch.
//
// Items. A fixed grid of CTAs of four warps takes units (item, KV head) in the plan's order (units.cuh). Per unit:
//   - the rows of q go to shared memory and from there to mma fragments (tile.cuh);
//   - K and V come in tiles of 64 tokens, row by row through the block table, into a ring of stages by cp.async. Tokens
//     that no row of the item sees are zeros, so nothing that lies there reaches a product;
//   - the warps split rows and tokens (Split): up to 16 rows, all have the same rows and a quarter of each tile, so
//     that four warps keep up with memory; up to 64 and up to 128, each has rows of its own and every token;
//   - the warps' states go to shared memory, are put together (max, then weights) and written: out and lse, or a
//     partial.
//
// Merges. One warp per KV head and some rows of a merge (cuda/merge.cuh).
//
// Shared memory of a unit: the ring, num_stages x [K 64 x D, V 64 x D]. q passes through the last stage, which the
// first tiles do not need; where it does not fit into registers after that, it keeps that stage (D = 128), or has a
// place behind the ring (D = 256). The epilogue's f32 [64, D + 8] lies over the ring's beginning.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/instructions.cuh"
#include "kernels/cuda/merge.cuh"
#include "kernels/cuda/rows.cuh"
#include "kernels/sm80/attention.hpp"
#include "kernels/sm80/tile.cuh"
#include "kernels/sm80/units.cuh"

namespace trunkline::kernels::sm80 {

/// How a launch copies and how deep its ring is.
struct Config {
  int num_stages;
  bool q_aligned, kv_aligned;  // 16-byte copies are possible
};

template <int D>
struct Sizes {
  static constexpr int plane_bytes = tile_tokens * D * 2;
  static constexpr int stage_bytes = 2 * plane_bytes;
  static constexpr int max_rows = D <= 128 ? 128 : 64;  // at once: two fragments' accumulators per warp, or one
  static constexpr bool q_behind_ring = D > 128;
  static constexpr int q_bytes = q_behind_ring ? max_rows * D * 2 : 0;
  static constexpr int out_pitch = D + 8;  // floats; the 8 spread a fragment's rows over the banks
  static constexpr int out_bytes = tile_tokens * out_pitch * 4;
  static constexpr int ctas_per_sm = D <= 128 ? 2 : 1;
  static constexpr int min_stages = q_behind_ring ? 1 : 2;
  static constexpr int max_stages = 6;
  static_assert(max_rows * D * 2 <= stage_bytes && out_bytes <= min_stages * stage_bytes + q_bytes);
};

/// How the warps split a unit. Each has Fragments times 16 rows, and Tokens tokens of every tile: Tokens / 16 groups of
/// warps have rows of their own, and 64 / Tokens warps share theirs. Fragment f of the groups makes up the rows
/// [f * Tokens, f * Tokens + Tokens).
template <int Fragments, int Tokens>
struct Split {
  static constexpr int rows = Fragments * Tokens;
  static constexpr int sharers = tile_tokens / Tokens;
  static constexpr int step_tokens = Tokens < 32 ? Tokens : 32;  // at once, as accumulators of scores

  /// Of the warp: its first row, in every fragment's rows, and its first token in a tile.
  static __device__ int first_row(int warp) { return warp / sharers * fragment_rows; }
  static __device__ int first_token(int warp) { return warp % sharers * Tokens; }
};
static_assert(tile_tokens == num_warps * fragment_rows);

/// What the threads of a CTA tell one another about the unit, beside the ring.
template <class T, int D>
struct Shared {
  union {
    const T* row_addresses[2][2 * tile_tokens];  // of a tile's K rows and V rows, two tiles
    struct {
      float most[tile_tokens], sum[tile_tokens];  // of each sharer's rows of one fragment
    } states;
  };
  std::int32_t begin[Sizes<D>::max_rows], end[Sizes<D>::max_rows];  // positions that the rows see
  std::int32_t q_index[Sizes<D>::max_rows];
  std::uint32_t next_unit;
};

/// Some of a unit's rows: [begin, begin + num) of its item.
struct Rows {
  std::int32_t begin, num;
};

/// Reads `q_index` and the visible positions of `count` rows, and where their q is. Those past the last are copies of
/// the last.
template <class T, int D>
__device__ inline void find_rows(const CudaParams& params, const Unit& unit, Rows rows, int count,
                                 Shared<T, D>& shared) {
  const AttentionParams& attention = params.attention;
  const auto thread = static_cast<std::int32_t>(threadIdx.x);
  if (thread >= count) return;
  const std::int32_t row = unit.item.row_begin + rows.begin + min(thread, rows.num - 1);
  const QueryToken token =
      cuda::plan_array<QueryToken>(params.plan, params.plan->query_tokens)[row / attention.group_size];
  std::int32_t end = min(token.visible_end, unit.item.token_end);
  if (attention.seq_lens != nullptr) end = min(end, attention.seq_lens[token.request]);
  shared.begin[thread] = token.visible_begin;
  shared.end[thread] = end;
  shared.q_index[thread] = token.q_index;
  const T* const q = cuda::row_of<T>(attention.q, cuda::place_of(attention, token.q_index, row, unit.kv_head));
  shared.row_addresses[1][thread] = q;
}

/// Walks over a unit's tiles and says where their rows of K and V are: one thread per row. The block table's entry is
/// read one tile ahead of its use.
template <class T>
class TileRows {
 public:
  __device__ TileRows(const AttentionParams& params, const Unit& unit)
      : params_(params),
        plane_(threadIdx.x < tile_tokens ? params.k : params.v),
        head_(static_cast<const T*>(plane_.data) + unit.kv_head * plane_.head_stride),
        table_(params.table + unit.item.table_row * params.table_stride),
        limit_(unit.item.token_end),
        token_(unit.item.token_begin + static_cast<std::int32_t>(threadIdx.x) % tile_tokens) {
    fetch();
  }

  /// No token from `limit` on is read.
  __device__ void stop_at(std::int32_t limit) { limit_ = min(limit_, limit); }

  /// Writes the addresses of the next tile's rows; past the last token any address that may be read.
  __device__ void publish(const T* (&addresses)[2 * tile_tokens]) {
    addresses[threadIdx.x] = head_ + page_ * plane_.page_stride + slot_ * plane_.token_stride;
    token_ += tile_tokens;
    fetch();
  }

 private:
  __device__ void fetch() {
    if (token_ >= limit_) return;
    const std::uint32_t entry = static_cast<std::uint32_t>(token_) / params_.page_size;
    slot_ = token_ - static_cast<std::int32_t>(entry) * params_.page_size;
    page_ = __ldg(table_ + entry);
  }

  const AttentionParams& params_;
  const KvPlane& plane_;
  const T* head_;
  const std::int32_t* table_;
  std::int32_t limit_, token_, page_ = 0, slot_ = 0;
};

/// Stores the state of 16 rows for the other warps, as rows [row, row + 16).
template <class T, int D>
__device__ inline void store_state(const Softmax<D>& state, int row, float* tile, Shared<T, D>& shared) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  row += lane / 4;
#pragma unroll
  for (int h = 0; h < 2; ++h, row += 8) {
    float sum = state.sum[h] + __shfl_xor_sync(0xFFFFFFFFu, state.sum[h], 1);
    sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 2);
    if (lane % 4 == 0) {
      shared.states.most[row] = state.most[h];
      shared.states.sum[row] = sum;
    }
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
      *reinterpret_cast<float2*>(tile + row * Sizes<D>::out_pitch + 8 * n + lane % 4 * 2) =
          make_float2(state.out[n][2 * h], state.out[n][2 * h + 1]);
    }
  }
}

/// Writes the results of `rows`, each from `sharers` states that lie `stride` rows apart. first: of the rows, in the
/// unit's rows at hand.
template <class T, int D>
__device__ inline void write_results(const CudaParams& params, const Unit& unit, Rows rows, int first, int sharers,
                                     int stride, const float* tile, const Shared<T, D>& shared) {
  constexpr int columns = D / 4;  // of four elements
  const AttentionParams& attention = params.attention;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < rows.num * columns; i += num_threads) {
    const int row = i / columns, column = i % columns * 4;
    if (column >= attention.head_dim) continue;
    float most = shared.states.most[row];
#pragma unroll 1
    for (int s = 1; s < sharers; ++s) most = fmaxf(most, shared.states.most[row + s * stride]);
    float sum = 0.0f, out[4] = {};
#pragma unroll 1
    for (int s = 0; s < sharers; ++s) {
      const int from = row + s * stride;
      const float weight = cuda::exp2(shared.states.most[from] - base_of(most));
      sum += weight * shared.states.sum[from];
      const float4 part = *reinterpret_cast<const float4*>(tile + from * Sizes<D>::out_pitch + column);
      out[0] += weight * part.x, out[1] += weight * part.y, out[2] += weight * part.z, out[3] += weight * part.w;
    }
    const float factor = sum == 0.0f ? 0.0f : 1.0f / sum;
    for (float& value : out) value *= factor;
    constexpr float natural = 0.69314718055994531f;  // log 2
    const float lse = fmaf(most, natural, logf(sum));

    const std::int32_t in_item = rows.begin + row;
    if (unit.item.partial_begin >= 0) {
      const std::int64_t index = cuda::partial_index(attention, unit.item.partial_begin + in_item, unit.kv_head);
      *reinterpret_cast<float4*>(attention.partial_out + index * attention.head_dim + column) =
          make_float4(out[0], out[1], out[2], out[3]);
      if (column == 0) attention.partial_lse[index] = lse;
    } else {
      const cuda::RowPlace place =
          cuda::place_of(attention, shared.q_index[first + row], unit.item.row_begin + in_item, unit.kv_head);
      cuda::store_rounded(cuda::row_of<T>(attention.out, place) + column, out);
      if (column == 0 && attention.lse != nullptr) *cuda::lse_of(attention, place) = lse;
    }
  }
}

/// `rows` of a unit, at most Fragments * Tokens.
template <class T, int D, int Fragments, int Tokens>
__device__ void run_rows(const CudaParams& params, const Config& config, const Unit& unit, Rows rows,
                         unsigned char* ring, Shared<T, D>& shared) {
  using Size = Sizes<D>;
  using Warps = Split<Fragments, Tokens>;
  using Q = Queries<D, Fragments>;
  const AttentionParams& attention = params.attention;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const std::uint32_t stages = cuda::shared_address(ring);
  const auto stage = [&](int index) { return stages + index * Size::stage_bytes; };
  const std::uint32_t q = stage(Size::q_behind_ring ? config.num_stages : config.num_stages - 1);
  const int last_stage = config.num_stages - (Q::in_registers || Size::q_behind_ring ? 1 : 2);  // of this ring

  TileRows<T> tile_rows(attention, unit);
  find_rows(params, unit, rows, Warps::rows, shared);
  __syncthreads();

  // Tiles from the item's first token to the last one that any row sees, masked outside what all see.
  std::int32_t limit = shared.end[lane % Warps::rows], all_end = limit, all_begin = shared.begin[lane % Warps::rows];
  for (int row = lane + 32; row < Warps::rows; row += 32) {
    limit = max(limit, shared.end[row]);
    all_end = min(all_end, shared.end[row]);
    all_begin = max(all_begin, shared.begin[row]);
  }
  limit = __reduce_max_sync(0xFFFFFFFFu, limit);
  all_end = __reduce_min_sync(0xFFFFFFFFu, all_end);
  all_begin = __reduce_max_sync(0xFFFFFFFFu, all_begin);
  const int num_tiles = (max(limit - unit.item.token_begin, 0) + tile_tokens - 1) / tile_tokens;
  tile_rows.stop_at(limit);

  // q and the first tiles, on their way.
  copy_rows<T, D, Warps::rows>(q, shared.row_addresses[1], rows.num, attention.head_dim, config.q_aligned);
  cuda::commit_copies();
  const auto copy_tile = [&](int tile, int into) {
    const T* const* const addresses = shared.row_addresses[tile % 2];
    const int valid = limit - unit.item.token_begin - tile * tile_tokens;
    copy_rows<T, D, tile_tokens>(stage(into), addresses, valid, attention.head_dim, config.kv_aligned);
    copy_rows<T, D, tile_tokens>(stage(into) + Size::plane_bytes, addresses + tile_tokens, valid, attention.head_dim,
                                 config.kv_aligned);
  };
#pragma unroll 1
  for (int tile = 0; tile < last_stage; ++tile) {
    tile_rows.publish(shared.row_addresses[tile % 2]);
    __syncthreads();
    if (tile < num_tiles) copy_tile(tile, tile);
    cuda::commit_copies();
  }
  cuda::wait_copies(last_stage);
  __syncthreads();
  if (attention.scale < 0) {  // so that the largest score is the largest product
    negate_rows<D>(q, Warps::rows);
    __syncthreads();
  }

  const int first_row = Warps::first_row(warp), first_token = Warps::first_token(warp);
  const bool active = first_row < rows.num;
  const Q queries(q + first_row * D * 2, Tokens);
  Visible visible[Fragments];
#pragma unroll
  for (int f = 0; f < Fragments; ++f) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      visible[f].begin[h] = shared.begin[f * Tokens + first_row + lane / 4 + 8 * h];
      visible[f].end[h] = shared.end[f * Tokens + first_row + lane / 4 + 8 * h];
    }
  }
  Softmax<D> state[Fragments];
  constexpr float log2_e = 1.4426950408889634f;
  const float scale = fmaxf(fabsf(attention.scale) * log2_e, 1e-30f);  // not 0, which makes NaN of a masked -inf

  int current = 0, free = last_stage;  // stages: of this tile, and the one that the tile before has left
#pragma unroll 1
  for (int tile = 0; tile < num_tiles; ++tile) {
    const int ahead = tile + last_stage;
    tile_rows.publish(shared.row_addresses[ahead % 2]);
    __syncthreads();  // the addresses are there, and all are done with the tile before
    if (ahead < num_tiles) copy_tile(ahead, free);
    cuda::commit_copies();
    cuda::wait_copies(last_stage);
    __syncthreads();

    const std::int32_t position = unit.item.token_begin + tile * tile_tokens;
    const bool masked = position < all_begin || position + tile_tokens > all_end;
    if (active) {
#pragma unroll 1
      for (int step = 0; step < Tokens; step += Warps::step_tokens) {
        const int token = first_token + step;
        const std::uint32_t keys = stage(current) + token * D * 2;
        attend<T, D, Fragments, Warps::step_tokens>(queries, keys, keys + Size::plane_bytes, scale, masked,
                                                    position + token, visible, state);
      }
    }
    free = current;
    current = current == last_stage ? 0 : current + 1;
  }

  auto* const tile = reinterpret_cast<float*>(ring);
#pragma unroll
  for (int f = 0; f < Fragments; ++f) {
    const int first = f * Tokens;
    __syncthreads();  // all are done with what lies there
    if (active) store_state<T, D>(state[f], warp % Warps::sharers * Tokens + first_row, tile, shared);
    __syncthreads();
    const Rows of_fragment{rows.begin + first, min(rows.num - first, Tokens)};
    write_results<T, D>(params, unit, of_fragment, first, Warps::sharers, Tokens, tile, shared);
  }
}

template <class T, int D>
__device__ inline void run_unit(const CudaParams& params, const Config& config, const Unit& unit, unsigned char* ring,
                                Shared<T, D>& shared) {
  const std::int32_t num_rows = unit.item.num_rows;
  if (num_rows <= 16) return run_rows<T, D, 1, 16>(params, config, unit, {0, num_rows}, ring, shared);
  if (num_rows <= 32) return run_rows<T, D, 1, 32>(params, config, unit, {0, num_rows}, ring, shared);
  if (num_rows <= 64) return run_rows<T, D, 1, 64>(params, config, unit, {0, num_rows}, ring, shared);
  if constexpr (Sizes<D>::max_rows == 128) {
    run_rows<T, D, 2, 64>(params, config, unit, {0, num_rows}, ring, shared);
  } else {
    for (std::int32_t begin = 0; begin < num_rows; begin += 64) {
      __syncthreads();  // all are done with the rows before
      run_rows<T, D, 1, 64>(params, config, unit, {begin, min(num_rows - begin, 64)}, ring, shared);
    }
  }
}

template <class T, int D>
__global__ __launch_bounds__(num_threads,
                             Sizes<D>::ctas_per_sm) void attend_items(const __grid_constant__ CudaParams params,
                                                                      const __grid_constant__ Config config) {
  unsigned char* const ring = cuda::dynamic_shared_memory<128>();
  Shared<T, D>& shared = cuda::shared_object<Shared<T, D>>();
  Units units(params.plan, params.attention.num_kv_heads);
  const auto take = [&] { return threadIdx.x == 0 ? atomicAdd(params.counters + next_unit, 1u) : 0u; };
  for (std::uint32_t taken = take();;) {
    __syncthreads();  // all are done with the unit before
    if (threadIdx.x == 0) shared.next_unit = taken;
    __syncthreads();
    Unit unit;
    if (!units.find(shared.next_unit, unit)) return;
    if (units.units_before_phase() > 0) {
      if (threadIdx.x == 0) wait_for_units(params.counters, units.units_before_phase());
      __syncthreads();
    }
    taken = take();  // the answer is there by the time this unit is done
    run_unit<T, D>(params, config, unit, ring, shared);
    if (units.has_barriers()) {
      __threadfence();
      __syncthreads();
      if (threadIdx.x == 0) atomicAdd(params.counters + units_done, 1u);
    }
  }
}

/// Also leaves the counters as the next launch needs them: the items are all done when this starts.
template <class T, int D>
__global__ __launch_bounds__(num_threads) void merge_partials(const __grid_constant__ CudaParams params) {
  if (blockIdx.x == 0 && threadIdx.x < counters_used) params.counters[threadIdx.x] = 0;
  const PlanHeader* const plan = params.plan;
  const auto num_kv_heads = static_cast<std::uint32_t>(params.attention.num_kv_heads);
  const std::uint32_t pairs = static_cast<std::uint32_t>(plan->num_merges) * num_kv_heads;
  const std::uint32_t num_all_warps = gridDim.x * num_warps;
  // As many rows per warp as leave no warp without work.
  int rows = max_merge_rows;
  while (rows > 1 && pairs * (max_merge_rows / rows) < num_all_warps) rows /= 2;
  const std::uint32_t parts = max_merge_rows / rows;
  for (std::uint32_t i = blockIdx.x * num_warps + threadIdx.x / 32; i < pairs * parts; i += num_all_warps) {
    const std::uint32_t pair = i / parts;
    const Merge merge = cuda::plan_array<Merge>(plan, plan->merges)[pair / num_kv_heads];
    const int row = static_cast<int>(i % parts) * rows;
    cuda::merge_rows<T, D>(params.attention, cuda::plan_array<QueryToken>(plan, plan->query_tokens), merge,
                           cuda::plan_array<std::int32_t>(plan, plan->merge_sources) + merge.source_begin,
                           static_cast<std::int32_t>(pair % num_kv_heads), row, min(row + rows, merge.num_rows));
  }
}

}  // namespace trunkline::kernels::sm80
