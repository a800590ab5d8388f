// The unit loaders: one warp per lane of the plan that runs ahead of the consumers, looks up what a unit's rows see and
// where their results go, and brings the narrow units' queries into shared memory.
#pragma once

#include <climits>

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/rows.cuh"
#include "kernels/sm90/layout.cuh"
#include "kernels/sm90/units.cuh"
#include "kernels/sm90/write_rows.cuh"

namespace trunkline::kernels::sm90 {

/// Where a row of the plan lies, and what it sees.
struct RowPlace {
  int q_index, head;  // row of q, out and lse; query head
  int end;            // one past the last position it sees, or beyond all
};
__device__ __forceinline__ RowPlace look_up_row(const Arguments& args, const Unit& unit, int kv_head, int row) {
  const CudaParams& params = args.params;
  const AttentionParams& a = params.attention;
  const int at = unit.row_begin + row, token = args.group.quotient(at);
  const int head = kv_head * a.group_size + at - token * a.group_size;
  RowPlace place{unit.first_q + token - args.group.quotient(unit.row_begin), head, INT_MAX};
  if (unit.first_q < 0 || unit.masked || a.seq_lens != nullptr) {
    const QueryToken* tokens = cuda::plan_array<QueryToken>(params.plan, params.plan->query_tokens);
    const int4 entry = __ldg(reinterpret_cast<const int4*>(tokens + token));
    place.q_index = entry.x;
    place.end = a.seq_lens == nullptr ? entry.w : min(entry.w, a.seq_lens[entry.y]);
  }
  return place;
}
static_assert(offsetof(QueryToken, request) == 4 && offsetof(QueryToken, visible_end) == 12);

/// By a whole warp, lane l for rows l, l + 32, ...; rows beyond the unit's last repeat it. What row l sees moves by
/// `offset`, as does the end of the unit's last head by `last_offset`.
template <int max_rows, int count>
__device__ __forceinline__ void fill(UnitSlot<max_rows>& slot, const Arguments& args, const Unit& unit,
                                     const RowPlace (&rows)[count], int offset, int last_offset) {
  const int lane = threadIdx.x % 32;
  const int origin = unit.origin(args.box_shift);
  int low = unit.token_end - origin, high = 0;
#pragma unroll
  for (int i = 0; i < count; ++i) {
    const int end = min(rows[i].end, unit.token_end) - origin;
    if (lane + 32 * i < max_rows) slot.row_end[lane + 32 * i] = offset + end;
    low = min(low, end);
    high = max(high, end);
  }
  if (unit.masked || args.params.attention.seq_lens != nullptr) {
    low = __reduce_min_sync(~0u, low);
    high = __reduce_max_sync(~0u, high);
  }
  if (lane == 0) {
    slot.num_rows = unit.num_rows * unit.num_heads;
    slot.num_tiles = (last_offset + unit.token_end - origin + tile_tokens - 1) / tile_tokens;
    slot.partial_begin = unit.partial_begin;
    slot.lead = unit.token_begin - origin;
    slot.min_end = last_offset > 0 ? 0 : low;
    slot.max_end = high;
  }
}

/// Rows of the narrow consumer's products: the item's, padded.
__device__ __forceinline__ int padded_rows(int num_rows) { return num_rows <= 8 ? 8 : 16; }

/// Queries of a unit by the copy engine, [head_dim / 64][padded rows][64] swizzled: one box per lane, of 64 elements of
/// query heads side by side. What lies in rows beyond the last comes to nothing that is written. Lane l knows row l.
template <int head_dim>
__device__ __forceinline__ void load_queries(const Arguments& args, const CUtensorMap* q_map, int num_rows,
                                             const RowPlace& mine, std::uint8_t* to, std::uint64_t* full) {
  constexpr int halves = head_dim / 64;
  const int lane = threadIdx.x % 32, half = lane % halves, row = lane / halves * args.q_box_rows;
  const int q_index = __shfl_sync(~0u, mine.q_index, row), head = __shfl_sync(~0u, mine.head, row);
  if (lane == 0) ptx::barrier_expect_only(full, num_rows * head_dim * 2);
  __syncwarp();
  if (row < num_rows) {
    ptx::load_rows(to + (half * padded_rows(num_rows) + row) * 128, q_map, full, 0, head, half, q_index);
  }
}

/// The same without the copy engine, for any strides.
template <class T, int head_dim>
__device__ __forceinline__ void gather_queries(const Arguments& args, const Unit& unit, const RowPlace& mine,
                                               std::uint8_t* to) {
  constexpr int chunks = head_dim / 8;
  const RowsView& q = args.params.attention.q;
  const int lane = threadIdx.x % 32, chunk = lane % chunks, num_rows = padded_rows(unit.num_rows);
#pragma unroll 1
  for (int r = 0; r < num_rows; r += 32 / chunks) {
    const int row = r + lane / chunks;
    const cuda::RowPlace place{__shfl_sync(~0u, mine.q_index, row), __shfl_sync(~0u, mine.head, row)};
    const auto* const from = reinterpret_cast<const std::uint16_t*>(cuda::row_of<T>(q, place)) + chunk * 8;
    std::uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) words[i] = cuda::load_unaligned_pair(from + 2 * i);
    ptx::store_16(ptx::shared_address(to) + chunk / 8 * num_rows * 128 + row * 128 + (chunk % 8 ^ row % 8) * 16, words);
  }
  ptx::fence_async();
}

template <class T, int head_dim, bool general, class Ready>
__device__ __forceinline__ void load_narrow_units(const Arguments& args, const CUtensorMap* q_map,
                                                  const CtaWork::Lane& work, SharedMemory<head_dim>& shared,
                                                  Ready ready) {
  const int lane = threadIdx.x % 32;
  Units<!general> units(args, work);
  Ring ring;
  ready();
  ptx::wait_for_last_launch();
#pragma unroll 1
  while (units.more()) {
    const Unit unit = units.next();
    // Rows of a unit of several heads: head by head.
    const int num_rows = unit.num_rows * unit.num_heads, at = min(lane % max_narrow_rows, num_rows - 1);
    const int ahead = unit.num_heads > 1 ? small_quotient(at, unit.num_rows) : 0;
    const int row = at - ahead * unit.num_rows, head = unit.head + ahead;
    const int period = unit.period(args.box_shift);
    const RowPlace place[1] = {look_up_row(args, unit, head, row)};
    NarrowSlot& slot = shared.narrow_units[ring.stage];
    std::uint64_t* const full = &shared.barriers.narrow_units.full[ring.stage];
    ptx::barrier_wait(&shared.barriers.narrow_units.empty[ring.stage], ring.parity ^ 1);
    if constexpr (general) {
      gather_queries<T, head_dim>(args, unit, place[0], shared.narrow_q[ring.stage]);
    } else {
      load_queries<head_dim>(args, q_map, num_rows, place[0], shared.narrow_q[ring.stage], full);
    }
    const int last_offset = (unit.num_heads - 1) * period;
    fill(slot, args, unit, place, ahead * period, last_offset);
    if (lane < max_narrow_rows) {
      slot.row_first[lane] = ahead * period + unit.token_begin - unit.origin(args.box_shift);
      slot.to[lane] =
          target_of<T>(args.params.attention, head, unit.partial_begin, row, place[0].q_index, place[0].head);
    }
    if (lane == 0) {
      const bool packed = unit.num_heads > 1;
      slot.period = packed ? period : INT_MAX;
      slot.end = last_offset + period;
      slot.zero_from = !packed ? slot.max_end : slot.max_end < period ? 0 : last_offset + period;
      slot.last = !units.more();
    }
    ptx::barrier_arrive(full);
    ring.advance(num_narrow_slots);
  }
}

/// By one warp of every CTA: each asks for a part of the plan's block, so that what is looked up later, one read behind
/// the other, is in L2 by then. The first 4 KiB times the number of CTAs, which is all but the largest plans.
__device__ __forceinline__ void prefetch_plan(const PlanHeader* plan, const Header& header) {
  const unsigned at = (blockIdx.x * 32 + threadIdx.x % 32) * 128;
  if (at < header.num_bytes()) ptx::prefetch(reinterpret_cast<const char*>(plan) + at);
}

template <int head_dim, class Ready>
__device__ __forceinline__ void load_wide_units(const Arguments& args, const CtaWork::Lane& work,
                                                SharedMemory<head_dim>& shared, Ready ready) {
  constexpr int rows_per_lane = max_wide_rows / 32;
  const int lane = threadIdx.x % 32;
  const Header header(args.params.plan);
  Units<false> units(args, work);
  Ring ring;
  ready();
  prefetch_plan(args.params.plan, header);
  ptx::wait_for_last_launch();
#pragma unroll 1
  while (units.more()) {
    const Unit unit = units.next();
    RowPlace rows[rows_per_lane];
#pragma unroll
    for (int i = 0; i < rows_per_lane; ++i) {
      rows[i] = look_up_row(args, unit, unit.head, max(min(lane + 32 * i, unit.num_rows - 1), 0));
    }
    WideSlot& slot = shared.wide_units[ring.stage];
    ptx::barrier_wait(&shared.barriers.wide_units.empty[ring.stage], ring.parity ^ 1);
    fill(slot, args, unit, rows, 0, 0);
    if (lane == 0) {
      slot.head = unit.head;
      slot.row_begin = unit.row_begin;
    }
#pragma unroll
    for (int i = 0; i < rows_per_lane; ++i) slot.q_index[lane + 32 * i] = rows[i].q_index;
    ptx::barrier_arrive(&shared.barriers.wide_units.full[ring.stage]);
    ring.advance(num_wide_slots);
  }
}

}  // namespace trunkline::kernels::sm90
