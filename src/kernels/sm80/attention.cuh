// The plain CUDA kernel: a plan's items with mma.sync and cp.async, then its merges in a second launch.
//
// Items. A fixed grid of CTAs of four warps takes units (item, KV head) in the plan's order (units.cuh). Per unit:
//   - the rows of q go to shared memory and from there to mma fragments (tile.cuh);
//   - K and V come in tiles of 64 tokens, row by row through the block table, into a ring of stages by cp.async. Tokens
//     that no row of the item sees are zeros, so nothing that lies there reaches a product;
//   - an item of more than 16 rows (at most 64): each warp has 16 rows and goes over all tokens. An item of at most 16
//     rows: all warps have the same rows, and each takes 16 tokens of every tile, so that four warps keep up with
//     memory;
//   - the warps' states go to shared memory, are put together (max, then weights) and written: out and lse, or a
//   partial.
//
// Merges. One warp per KV head and some rows of a merge (cuda/merge.cuh).
//
// Shared memory of a unit: the ring, num_stages x [K 64 x D, V 64 x D]; where q does not stay in registers (D = 256), q
// behind it. Else q passes through the last stage, which the first tiles do not need; the epilogue's f32 [64, D + 8]
// lies over the ring's beginning.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/merge.cuh"
#include "kernels/cuda/rows.cuh"
#include "kernels/sm80/attention.hpp"
#include "kernels/sm80/tile.cuh"
#include "kernels/sm80/units.cuh"

namespace trunkline::kernels::sm80 {

static_assert(max_wide_rows == num_warps * fragment_rows && max_narrow_rows == fragment_rows);
static_assert(tile_tokens == num_warps * 16);

/// How a launch copies and how deep its ring is.
struct Config {
  int num_stages;
  bool q_aligned, kv_aligned;  // 16-byte copies are possible
};

template <int D>
struct Sizes {
  static constexpr int plane_bytes = tile_tokens * D * 2;
  static constexpr int stage_bytes = 2 * plane_bytes;
  static constexpr int q_bytes = Queries<D>::in_registers ? 0 : max_wide_rows * D * 2;
  static constexpr int out_pitch = D + 8;  // floats; the 8 spread a fragment's rows over the banks
  static constexpr int out_bytes = max_wide_rows * out_pitch * 4;
  static constexpr int max_stages = 6;
  static_assert(out_bytes <= stage_bytes + (q_bytes > 0 ? q_bytes : stage_bytes));
};

/// What the threads of a CTA tell one another about the unit, beside the ring.
template <class T>
struct Shared {
  union {
    const T* row_addresses[2][2 * tile_tokens];  // of a tile's K rows and V rows, two tiles
    struct {
      float most[num_warps * fragment_rows], sum[num_warps * fragment_rows];  // after the last tile
    } states;
  };
  std::int32_t begin[max_wide_rows], end[max_wide_rows];  // positions that the rows see
  std::int32_t q_index[max_wide_rows];
  std::uint32_t next_unit;
};

/// Reads `q_index` and the visible positions of the item's rows, and where their q is. Rows past the last are copies of
/// the last with no q.
template <class T>
__device__ inline void find_rows(const CudaParams& params, const Unit& unit, Shared<T>& shared) {
  const AttentionParams& attention = params.attention;
  const auto thread = static_cast<std::int32_t>(threadIdx.x);
  if (thread >= max_wide_rows) return;
  const std::int32_t row = unit.item.row_begin + min(thread, unit.item.num_rows - 1);
  const QueryToken token =
      cuda::plan_array<QueryToken>(params.plan, params.plan->query_tokens)[row / attention.group_size];
  std::int32_t end = min(token.visible_end, unit.item.token_end);
  if (attention.seq_lens != nullptr) end = min(end, attention.seq_lens[token.request]);
  shared.begin[thread] = token.visible_begin;
  shared.end[thread] = end;
  shared.q_index[thread] = token.q_index;
  const T* const q = cuda::row_of<T>(attention.q, cuda::place_of(attention, token.q_index, row, unit.kv_head));
  shared.row_addresses[1][thread] = thread < unit.item.num_rows ? q : nullptr;
}

/// Walks over a unit's tiles and says where their rows of K and V are: one thread per row. The block table's entry is
/// read one tile ahead of its use.
template <class T>
class TileRows {
 public:
  /// limit: no token from there on is read.
  __device__ TileRows(const AttentionParams& params, const Unit& unit, std::int32_t limit)
      : limit_(limit), token_(unit.item.token_begin + static_cast<std::int32_t>(threadIdx.x) % tile_tokens) {
    const KvPlane& plane = threadIdx.x < tile_tokens ? params.k : params.v;
    head_ = static_cast<const T*>(plane.data) + unit.kv_head * plane.head_stride;
    page_stride_ = plane.page_stride;
    token_stride_ = plane.token_stride;
    page_size_ = static_cast<std::uint32_t>(params.page_size);
    table_ = params.table + unit.item.table_row * params.table_stride;
    fetch();
  }

  /// Writes the addresses of the next tile's rows.
  __device__ void publish(const T* (&addresses)[2 * tile_tokens]) {
    const T* const row = head_ + page_ * page_stride_ + slot_ * token_stride_;
    addresses[threadIdx.x] = token_ < limit_ ? row : nullptr;
    token_ += tile_tokens;
    fetch();
  }

 private:
  __device__ void fetch() {
    if (token_ >= limit_) return;
    const std::uint32_t entry = static_cast<std::uint32_t>(token_) / page_size_;
    slot_ = token_ - static_cast<std::int32_t>(entry * page_size_);
    page_ = __ldg(table_ + entry);
  }

  const T* head_;
  std::int64_t page_stride_, token_stride_;
  const std::int32_t* table_;
  std::uint32_t page_size_;
  std::int32_t limit_, token_, page_ = 0, slot_ = 0;
};

/// Stores the warp's state for the others: the rows of the accumulators in [warp * 16, warp * 16 + 16).
template <class T, int D>
__device__ inline void store_state(const Softmax<D>& state, float* tile, Shared<T>& shared) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = warp * fragment_rows + lane / 4 + 8 * h;
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

/// Puts the `num_states` states of each row together (16 rows apart) and writes the result.
template <class T, int D>
__device__ inline void write_results(const CudaParams& params, const Unit& unit, int num_states, const float* tile,
                                     const Shared<T>& shared) {
  constexpr int columns = D / 4;  // of four elements
  const AttentionParams& attention = params.attention;
  for (int i = static_cast<int>(threadIdx.x); i < unit.item.num_rows * columns; i += num_threads) {
    const int row = i / columns, column = i % columns * 4;
    if (column >= attention.head_dim) continue;
    float most = shared.states.most[row];
    for (int s = 1; s < num_states; ++s) most = fmaxf(most, shared.states.most[row + s * fragment_rows]);
    float sum = 0.0f, out[4] = {};
    for (int s = 0; s < num_states; ++s) {
      const int from = row + s * fragment_rows;
      const float weight = power_of_2(shared.states.most[from] - base_of(most));
      sum += weight * shared.states.sum[from];
      const float4 part = *reinterpret_cast<const float4*>(tile + from * Sizes<D>::out_pitch + column);
      out[0] += weight * part.x, out[1] += weight * part.y, out[2] += weight * part.z, out[3] += weight * part.w;
    }
    const float factor = sum == 0.0f ? 0.0f : 1.0f / sum;
    for (float& value : out) value *= factor;
    constexpr float natural = 0.69314718055994531f;  // log 2
    const float lse = (most + log2f(sum)) * natural;

    if (unit.item.partial_begin >= 0) {
      const std::int64_t index = cuda::partial_index(attention, unit.item.partial_begin + row, unit.kv_head);
      *reinterpret_cast<float4*>(attention.partial_out + index * attention.head_dim + column) =
          make_float4(out[0], out[1], out[2], out[3]);
      if (column == 0) attention.partial_lse[index] = lse;
    } else {
      const cuda::RowPlace place =
          cuda::place_of(attention, shared.q_index[row], unit.item.row_begin + row, unit.kv_head);
      cuda::store_rounded(cuda::row_of<T>(attention.out, place) + column, out);
      if (column == 0 && attention.lse != nullptr) *cuda::lse_of(attention, place) = lse;
    }
  }
}

template <class T, int D>
__device__ inline void run_unit(const CudaParams& params, const Config& config, const Unit& unit, unsigned char* ring,
                                Shared<T>& shared) {
  using Size = Sizes<D>;
  const AttentionParams& attention = params.attention;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int last_stage = config.num_stages - 1;
  const std::uint32_t stages = cuda::shared_address(ring);
  const auto stage = [&](int index) { return stages + index * Size::stage_bytes; };

  find_rows(params, unit, shared);
  __syncthreads();

  const std::int32_t limit = __reduce_max_sync(0xFFFFFFFFu, max(shared.end[lane], shared.end[lane + 32]));
  const std::int32_t all_begin = __reduce_max_sync(0xFFFFFFFFu, max(shared.begin[lane], shared.begin[lane + 32]));
  const std::int32_t all_end = __reduce_min_sync(0xFFFFFFFFu, min(shared.end[lane], shared.end[lane + 32]));
  const int num_tiles = (max(limit - unit.item.token_begin, 0) + tile_tokens - 1) / tile_tokens;
  TileRows<T> rows(attention, unit, limit);

  // The rows of q, then the first tiles, on their way.
  const std::uint32_t q = stage(Queries<D>::in_registers ? last_stage : config.num_stages);
  copy_rows<T, D, max_wide_rows>(q, shared.row_addresses[1], attention.head_dim, config.q_aligned);
  cuda::commit_copies();
  const auto copy_tile = [&](int tile, int into) {
    copy_rows<T, D, 2 * tile_tokens>(stage(into), shared.row_addresses[tile % 2], attention.head_dim,
                                     config.kv_aligned);
  };
  for (int tile = 0; tile < last_stage; ++tile) {
    rows.publish(shared.row_addresses[tile % 2]);
    __syncthreads();
    if (tile < num_tiles) copy_tile(tile, tile);
    cuda::commit_copies();
  }
  cuda::wait_copies(last_stage);
  __syncthreads();

  const bool split_tokens = unit.item.num_rows <= fragment_rows;
  const int first_row = split_tokens ? 0 : warp * fragment_rows;
  const bool active = first_row < unit.item.num_rows;
  Queries<D> queries;
  queries.load(q + first_row * D * 2);
  Visible visible;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    visible.begin[h] = shared.begin[first_row + lane / 4 + 8 * h];
    visible.end[h] = shared.end[first_row + lane / 4 + 8 * h];
  }
  Softmax<D> state;
  state.clear();
  constexpr float log2_e = 1.4426950408889634f;
  const float scale = attention.scale * log2_e;

  int current = 0, free = last_stage;  // stages: of this tile, and the one that the tile before has left
  for (int tile = 0; tile < num_tiles; ++tile) {
    const int ahead = tile + last_stage;
    rows.publish(shared.row_addresses[ahead % 2]);
    __syncthreads();  // the addresses are there, and all are done with the tile before
    if (ahead < num_tiles) copy_tile(ahead, free);
    cuda::commit_copies();
    cuda::wait_copies(last_stage);
    __syncthreads();

    const std::int32_t position = unit.item.token_begin + tile * tile_tokens;
    const bool masked = position < all_begin || position + tile_tokens > all_end;
    const std::uint32_t keys = stage(current), values = keys + Size::plane_bytes;
    if (split_tokens) {
      const std::uint32_t offset = warp * 16 * D * 2;
      attend<T, D, 16>(queries, keys + offset, values + offset, scale, masked, position + warp * 16, visible, state);
    } else if (active) {
      attend<T, D, tile_tokens>(queries, keys, values, scale, masked, position, visible, state);
    }
    free = current;
    current = current == last_stage ? 0 : current + 1;
  }
  __syncthreads();  // all are done with the last tile

  auto* const tile = reinterpret_cast<float*>(ring);
  if (active) store_state<T, D>(state, tile, shared);
  __syncthreads();
  write_results<T, D>(params, unit, split_tokens ? num_warps : 1, tile, shared);
}

template <class T, int D>
__global__ __launch_bounds__(num_threads, D <= 128 ? 2 : 1) void attend_items(const __grid_constant__ CudaParams params,
                                                                              const __grid_constant__ Config config) {
  extern __shared__ __align__(128) unsigned char ring[];
  __shared__ Shared<T> shared;
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
