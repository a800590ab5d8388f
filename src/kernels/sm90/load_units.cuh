// The unit loaders: one warp per lane of the plan that runs ahead of the consumers, looks up what a unit's rows see and
// where they lie, and brings the narrow units' queries into shared memory.
#pragma once

#include "kernels/cuda/rows.cuh"
#include "kernels/sm90/layout.cuh"

namespace trunkline::kernels::sm90 {

/// The words of an item, one per lane.
__device__ __forceinline__ int item_word(const CudaParams& params, const UnitCursor& cursor) {
  const int lane = threadIdx.x % 32;
  if (!cursor.valid() || lane >= 8) return 0;
  const CudaItem* items = cuda::plan_array<CudaItem>(params.plan, params.plan->items);
  return __ldg(reinterpret_cast<const int*>(items + cursor.item) + lane);
}

__device__ __forceinline__ int first_word(const CtaWork::Lane& work) {
  return __ldg(reinterpret_cast<const int*>(&work.first) + threadIdx.x % 8);
}

struct ItemRows {
  int row_begin, num_rows, token_begin, token_end, partial_begin;
};
__device__ __forceinline__ ItemRows item_rows(int word) {
  return {__shfl_sync(~0u, word, 0), __shfl_sync(~0u, word, 1), __shfl_sync(~0u, word, 3), __shfl_sync(~0u, word, 4),
          __shfl_sync(~0u, word, 5)};
}
static_assert(offsetof(CudaItem, token_begin) == 12 && offsetof(CudaItem, partial_begin) == 20);

/// What this lane's rows, lane + 32 i, see.
template <int max_rows>
struct LaneRows {
  static constexpr int count = (max_rows + 31) / 32;
  int q_index[count], end[count];
};

template <int max_rows>
__device__ __forceinline__ LaneRows<max_rows> look_up_rows(const CudaParams& params, const ItemRows& item) {
  const QueryToken* tokens = cuda::plan_array<QueryToken>(params.plan, params.plan->query_tokens);
  const AttentionParams& a = params.attention;
  LaneRows<max_rows> rows;
#pragma unroll
  for (int i = 0; i < LaneRows<max_rows>::count; ++i) {
    const int row = min(threadIdx.x % 32 + 32 * i, max(item.num_rows - 1, 0));
    const int4 token = __ldg(reinterpret_cast<const int4*>(tokens + (item.row_begin + row) / a.group_size));
    rows.q_index[i] = token.x;
    rows.end[i] = token.w;
    if (a.seq_lens != nullptr) rows.end[i] = min(rows.end[i], a.seq_lens[token.y]);
  }
  return rows;
}
static_assert(offsetof(QueryToken, request) == 4 && offsetof(QueryToken, visible_end) == 12);

/// By a whole warp. Rows beyond the last repeat it.
template <int max_rows>
__device__ __forceinline__ void fill(UnitSlot<max_rows>& slot, const ItemRows& item, int head, int align,
                                     const LaneRows<max_rows>& rows) {
  const int lane = threadIdx.x % 32;
  const int origin = item.token_begin / align * align;
  int low = item.token_end - origin, high = 0;
#pragma unroll
  for (int i = 0; i < LaneRows<max_rows>::count; ++i) {
    const int end = min(rows.end[i], item.token_end) - origin;
    if (lane + 32 * i < max_rows) {
      slot.row_end[lane + 32 * i] = end;
      slot.q_index[lane + 32 * i] = rows.q_index[i];
    }
    low = min(low, end);
    high = max(high, end);
  }
  low = __reduce_min_sync(~0u, low);
  high = __reduce_max_sync(~0u, high);
  if (lane == 0) {
    slot.num_rows = item.num_rows;
    slot.num_tiles = (item.token_end - origin + tile_tokens - 1) / tile_tokens;
    slot.head = head;
    slot.partial_begin = item.partial_begin;
    slot.row_begin = item.row_begin;
    slot.lead = item.token_begin - origin;
    slot.min_end = low;
    slot.max_end = high;
  }
}

/// Rows of the narrow consumer's products: the item's, padded.
__device__ __forceinline__ int padded_rows(int num_rows) { return num_rows <= 8 ? 8 : 16; }

/// Queries of a unit, [head_dim / 64][rows][64] swizzled; zeros beyond the last row.
template <class T, int head_dim>
__device__ __forceinline__ void copy_queries(const Arguments& args, const ItemRows& item, int head, int my_q_index,
                                             std::uint8_t* to) {
  constexpr int chunks = head_dim / 8;
  const AttentionParams& a = args.params.attention;
  const int lane = threadIdx.x % 32, chunk = lane % chunks;
  const int num_rows = padded_rows(item.num_rows);
  const auto* q = static_cast<const T*>(a.q.data);
  const bool aligned = args.q_aligned;
  for (int r = 0; r < num_rows; r += 32 / chunks) {
    const int row = r + lane / chunks;
    const std::int64_t q_index = __shfl_sync(~0u, my_q_index, min(row, item.num_rows - 1));
    const bool valid = row < item.num_rows;
    const int head_in_group = (item.row_begin + row) % a.group_size;
    const T* from =
        q + q_index * a.q.token_stride + (head * a.group_size + head_in_group) * a.q.head_stride + chunk * 8;
    const std::uint32_t at =
        ptx::shared_address(to) + chunk / 8 * num_rows * 128 + row * 128 + (chunk % 8 ^ row % 8) * 16;
    if (aligned) {
      ptx::copy_16(at, valid ? from : q, valid);
    } else {
      std::uint32_t words[4] = {0, 0, 0, 0};
      const auto* halves = reinterpret_cast<const std::uint16_t*>(from);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (valid) words[i] = halves[2 * i] | static_cast<std::uint32_t>(halves[2 * i + 1]) << 16;
      }
      asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(at), "r"(words[0]), "r"(words[1]), "r"(words[2]),
                   "r"(words[3])
                   : "memory");
    }
  }
}

template <class T, int head_dim>
__device__ void load_narrow_units(const Arguments& args, const CtaWork::Lane& work, SharedMemory<head_dim>& shared) {
  const CudaParams& params = args.params;
  const int num_heads = params.attention.num_kv_heads;
  UnitCursor cursor(work, num_heads), ahead = cursor;
  if (!cursor.valid()) return;
  // Items are read two units ahead, what their rows see one: no lookup waits for another.
  ItemRows item = item_rows(first_word(work));
  ahead.advance(num_heads);
  int next_word = item_word(params, ahead);
  LaneRows<max_narrow_rows> rows = look_up_rows<max_narrow_rows>(params, item);
  Ring ring;
  while (cursor.valid()) {
    UnitSlot<max_narrow_rows>& slot = shared.narrow_units[ring.stage];
    ptx::barrier_wait(&shared.narrow_unit_empty[ring.stage], ring.parity ^ 1);
    fill(slot, item, cursor.head, args.box_tokens, rows);
    copy_queries<T, head_dim>(args, item, cursor.head, rows.q_index[0], shared.narrow_q[ring.stage]);
    ptx::copy_commit();
    item = item_rows(next_word);
    rows = look_up_rows<max_narrow_rows>(params, item);
    if (ahead.valid()) ahead.advance(num_heads);
    next_word = item_word(params, ahead);
    ptx::copy_wait<0>();
    ptx::fence_async();
    __syncwarp();
    if (threadIdx.x % 32 == 0) ptx::barrier_arrive(&shared.narrow_unit_full[ring.stage]);
    ring.advance(num_narrow_slots);
    cursor.advance(num_heads);
  }
}

template <int head_dim>
__device__ void load_wide_units(const Arguments& args, const CtaWork::Lane& work, SharedMemory<head_dim>& shared) {
  const CudaParams& params = args.params;
  const int num_heads = params.attention.num_kv_heads;
  std::uint32_t parity = 0;
  UnitCursor cursor(work, num_heads);
  int word = first_word(work);
  while (cursor.valid()) {
    const ItemRows item = item_rows(word);
    const LaneRows<max_wide_rows> rows = look_up_rows<max_wide_rows>(params, item);
    ptx::barrier_wait(&shared.wide_unit_empty, parity ^ 1);
    fill(shared.wide_unit, item, cursor.head, args.box_tokens, rows);
    __syncwarp();
    if (threadIdx.x % 32 == 0) ptx::barrier_arrive(&shared.wide_unit_full);
    parity ^= 1;
    cursor.advance(num_heads);
    word = item_word(params, cursor);
  }
}

}  // namespace trunkline::kernels::sm90
