// The unit loaders: one warp per lane of the plan that runs ahead of the consumers, looks up what a unit's rows see and
// where they lie, and brings the narrow units' queries into shared memory.
#pragma once

#include "kernels/cuda/rows.cuh"
#include "kernels/sm90/layout.cuh"

namespace trunkline::kernels::sm90 {

/// What the loaders need of an item; read as words, of which each lane holds one.
struct ItemRows {
  int row_begin, num_rows, token_begin, token_end, partial_begin;
  __device__ __forceinline__ ItemRows(int word, int first_lane)
      : row_begin(__shfl_sync(~0u, word, first_lane)),
        num_rows(__shfl_sync(~0u, word, first_lane + 1)),
        token_begin(__shfl_sync(~0u, word, first_lane + 3)),
        token_end(__shfl_sync(~0u, word, first_lane + 4)),
        partial_begin(__shfl_sync(~0u, word, first_lane + 5)) {}
};
static_assert(offsetof(CudaItem, token_begin) == 12 && offsetof(CudaItem, partial_begin) == 20);
inline constexpr int item_words = 8;

/// The first item has a copy beside the schedule, which waits for nothing else.
__device__ __forceinline__ int first_item_word(const CtaWork::Lane& work) {
  return __ldg(reinterpret_cast<const int*>(&work.first) + threadIdx.x % item_words);
}
__device__ __forceinline__ int item_word(const CudaParams& params, int item) {
  const CudaItem* items = cuda::plan_array<CudaItem>(params.plan, params.plan->items);
  return __ldg(reinterpret_cast<const int*>(items + item) + threadIdx.x % item_words);
}

struct RowPlace {
  int q_index, end;  // one past the last position it sees
};
__device__ __forceinline__ RowPlace look_up_row(const CudaParams& params, int row) {
  const AttentionParams& a = params.attention;
  const QueryToken* tokens = cuda::plan_array<QueryToken>(params.plan, params.plan->query_tokens);
  const int4 token = __ldg(reinterpret_cast<const int4*>(tokens + row / a.group_size));
  return {token.x, a.seq_lens == nullptr ? token.w : min(token.w, a.seq_lens[token.y])};
}
static_assert(offsetof(QueryToken, request) == 4 && offsetof(QueryToken, visible_end) == 12);

/// By a whole warp: lane l brings rows l, l + 32, ...; rows beyond the item's last repeat it.
template <int max_rows, int count>
__device__ __forceinline__ void fill(UnitSlot<max_rows>& slot, const ItemRows& item, int head, int align,
                                     const RowPlace (&rows)[count]) {
  const int lane = threadIdx.x % 32;
  const int origin = item.token_begin / align * align;
  int low = item.token_end - origin, high = 0;
#pragma unroll
  for (int i = 0; i < count; ++i) {
    const int end = min(rows[i].end, item.token_end) - origin;
    if (lane + 32 * i < max_rows) {
      slot.row_end[lane + 32 * i] = end;
      slot.q_index[lane + 32 * i] = rows[i].q_index;
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
template <class T, int head_dim, bool general>
__device__ __forceinline__ void copy_queries(const Arguments& args, const ItemRows& item, int head, int my_q_index,
                                             std::uint8_t* to) {
  constexpr int chunks = head_dim / 8;
  const AttentionParams& a = args.params.attention;
  const int lane = threadIdx.x % 32, chunk = lane % chunks;
  const int num_rows = padded_rows(item.num_rows);
  const auto* q = static_cast<const T*>(a.q.data);
  for (int r = 0; r < num_rows; r += 32 / chunks) {
    const int row = r + lane / chunks;
    const std::int64_t q_index = __shfl_sync(~0u, my_q_index, min(row, item.num_rows - 1));
    const bool valid = row < item.num_rows;
    const int head_in_group = (item.row_begin + row) % a.group_size;
    const T* from =
        q + q_index * a.q.token_stride + (head * a.group_size + head_in_group) * a.q.head_stride + chunk * 8;
    const std::uint32_t at =
        ptx::shared_address(to) + chunk / 8 * num_rows * 128 + row * 128 + (chunk % 8 ^ row % 8) * 16;
    if constexpr (!general) {
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

/// Units in batches of four, whose lookups take one latency: the items of a batch are read two batches ahead, what
/// their rows see one ahead, and the queries of a whole batch are under way together.
template <class T, int head_dim, bool general>
__device__ void load_narrow_units(const Arguments& args, const CtaWork::Lane& work, SharedMemory<head_dim>& shared) {
  constexpr int batch = 32 / item_words;
  static_assert(max_narrow_rows == 16 && num_narrow_slots > batch);
  const CudaParams& params = args.params;
  const int num_heads = params.attention.num_kv_heads, count = num_units(work), lane = threadIdx.x % 32;
  const auto place = [&](int unit) { return UnitPlace(work, min(unit, count - 1), num_heads); };
  const auto read_items = [&](int first) { return item_word(params, place(first + lane / item_words).item); };
  // Row r of the batch's unit u is looked up by lane (16 u + r) % 32.
  struct Rows {
    RowPlace pair[2];
  };
  const auto look_up = [&](int words) {
    Rows rows;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int first = (2 * i + lane / 16) * item_words;
      const int row_begin = __shfl_sync(~0u, words, first), num_rows = __shfl_sync(~0u, words, first + 1);
      rows.pair[i] = look_up_row(params, row_begin + min(lane % 16, num_rows - 1));
    }
    return rows;
  };

  if (count == 0) return;
  // The first unit is a batch of its own: nothing starts before its queries are there.
  int words = first_item_word(work), next_words = read_items(1);
  Rows rows = look_up(words);
  Ring fill_at, publish_at;
  for (int first = 0; first < count;) {
    const int units = first == 0 ? 1 : min(batch, count - first), next = first + units;
#pragma unroll 1
    for (int u = 0; u < units; ++u) {
      const ItemRows item(words, u * item_words);
      const int head = place(first + u).head, source = u % 2 * 16 + lane % 16;
      const int q_index = __shfl_sync(~0u, u < 2 ? rows.pair[0].q_index : rows.pair[1].q_index, source);
      const int end = __shfl_sync(~0u, u < 2 ? rows.pair[0].end : rows.pair[1].end, source);
      ptx::barrier_wait(&shared.barriers.narrow_units.empty[fill_at.stage], fill_at.parity ^ 1);
      fill(shared.narrow_units[fill_at.stage], item, head, args.box_tokens, {{q_index, end}});
      copy_queries<T, head_dim, general>(args, item, head, q_index, shared.narrow_q[fill_at.stage]);
      cuda::commit_copies();
      fill_at.advance(num_narrow_slots);
    }
    const int ahead_words = read_items(next + batch);
    const Rows next_rows = look_up(next_words);
    for (int u = 0; u < units; ++u) {
      switch (units - 1 - u) {  // copies of later units may still be on their way
        case 0:
          cuda::wait_copies<0>();
          break;
        case 1:
          cuda::wait_copies<1>();
          break;
        case 2:
          cuda::wait_copies<2>();
          break;
        default:
          cuda::wait_copies<3>();
      }
      ptx::fence_async();
      __syncwarp();
      if (lane == 0) ptx::barrier_arrive(&shared.barriers.narrow_units.full[publish_at.stage]);
      publish_at.advance(num_narrow_slots);
    }
    words = next_words, next_words = ahead_words, rows = next_rows, first = next;
  }
}

template <int head_dim>
__device__ void load_wide_units(const Arguments& args, const CtaWork::Lane& work, SharedMemory<head_dim>& shared) {
  constexpr int rows_per_lane = max_wide_rows / 32;
  const CudaParams& params = args.params;
  const int num_heads = params.attention.num_kv_heads, count = num_units(work), lane = threadIdx.x % 32;
  Ring ring;
  for (int unit = 0; unit < count; ++unit) {
    const UnitPlace place(work, unit, num_heads);
    const ItemRows item(unit == 0 ? first_item_word(work) : item_word(params, place.item), 0);
    RowPlace rows[rows_per_lane];
#pragma unroll
    for (int i = 0; i < rows_per_lane; ++i) {
      rows[i] = look_up_row(params, item.row_begin + min(lane + 32 * i, item.num_rows - 1));
    }
    ptx::barrier_wait(&shared.barriers.wide_units.empty[ring.stage], ring.parity ^ 1);
    fill(shared.wide_units[ring.stage], item, place.head, args.box_tokens, rows);
    __syncwarp();
    if (lane == 0) ptx::barrier_arrive(&shared.barriers.wide_units.full[ring.stage]);
    ring.advance(num_wide_slots);
  }
}

}  // namespace trunkline::kernels::sm90
