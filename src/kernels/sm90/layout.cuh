// Who does what in a CTA, and what shared memory holds.
#pragma once

#include "kernels/cuda_params.hpp"
#include "kernels/sm90/arguments.hpp"
#include "kernels/sm90/attention.hpp"
#include "kernels/sm90/ptx.cuh"

namespace trunkline::kernels::sm90 {

/// Four warpgroups of 128 threads. Registers are dealt to them at the start: 64 + 96 + 2 * 176 = 4 * 128.
enum class Role : int { loaders, narrow, wide_low, wide_high };
inline constexpr int warpgroup = 128;
inline constexpr int num_threads = 4 * warpgroup;
inline constexpr int loader_registers = 64, narrow_registers = 96, wide_registers = 176;

/// Warps of the loaders' warpgroup.
enum class Loader : int { narrow_kv, wide_kv, narrow_units, wide_units };

/// Named barriers; 0 is __syncthreads.
enum class Barrier : int { narrow = 1, wide_low, wide_high, written, met };

inline constexpr int group_tokens = 8;          // rows of a swizzled tile
inline constexpr int num_stages = ring_stages;  // dealt to the two rings, the narrow one's first
inline constexpr int num_narrow_slots = 6, num_wide_slots = 2;
inline constexpr int merge_blocks = 8;  // of partials that a merging warp has under way

/// Where the elements of a stage lie: groups of 8 tokens, each of them one or two (head_dim / 64) swizzled tiles of 8
/// tokens by 64 elements. K first, then V.
template <int head_dim>
struct StageLayout {
  static constexpr int halves = head_dim / 64;
  static constexpr int half_bytes = group_tokens * 128;
  static constexpr int group_bytes = halves * half_bytes;
  static constexpr int plane_bytes = tile_tokens / group_tokens * group_bytes;
  static constexpr int bytes = 2 * plane_bytes;
};

/// A unit (item, KV head) as its consumers see it. Positions count from the first token of the unit's first tile.
template <int max_rows>
struct UnitSlot {
  std::int32_t num_rows, num_tiles, partial_begin;
  std::int32_t lead;               // tokens before this one are not the unit's
  std::int32_t min_end, max_end;   // of its rows
  std::int32_t row_end[max_rows];  // one past the last token each row sees; may be <= the first
};
/// Where a row's result goes: f32 of a partial, or elements of out. No lse where it is not wanted.
struct alignas(16) RowTarget {
  void* out;
  float* lse;
};
/// Of one KV head, or of several: then the tokens of head i lie at [i * period, (i + 1) * period), and each row sees
/// those of its head alone. max_end is of the first head's rows, min_end 0.
struct NarrowSlot : UnitSlot<max_narrow_rows> {
  std::int32_t period;                      // of one head: beyond all tokens
  std::int32_t end;                         // of what is in the stages
  std::int32_t zero_from;                   // tiles that end before it have no token that no row sees
  std::int32_t last;                        // 1: of the CTA's list
  std::int32_t row_first[max_narrow_rows];  // the first token each row may see
  RowTarget to[max_narrow_rows];
};
struct WideSlot : UnitSlot<max_wide_rows> {
  std::int32_t head, row_begin;
  std::int32_t q_index[max_wide_rows];  // row of q, out and lse
};

/// Of the stages of one lane: K and V are waited for, and freed, apart. `full` has the arrival of the producer, `empty`
/// one of each consuming warp.
struct StageBarriers {
  std::uint64_t k_full[num_stages], v_full[num_stages], k_empty[num_stages], v_empty[num_stages];
};
template <int slots>
struct UnitBarriers {
  std::uint64_t full[slots], empty[slots];
};
struct Barriers {
  StageBarriers narrow, wide;
  UnitBarriers<num_narrow_slots> narrow_units;
  UnitBarriers<num_wide_slots> wide_units;
};

template <int head_dim>
struct SharedMemory {
  alignas(1024) std::uint8_t stages[num_stages][StageLayout<head_dim>::bytes];
  alignas(1024) std::uint8_t narrow_q[num_narrow_slots][max_narrow_rows * head_dim * 2];
  alignas(1024) std::uint8_t narrow_p[2][max_narrow_rows * tile_tokens * 2];
  NarrowSlot narrow_units[num_narrow_slots];
  WideSlot wide_units[num_wide_slots];
  alignas(16) float narrow_sums[2][max_narrow_rows][4];  // of two units' rows, by warp
  float narrow_references[2][max_narrow_rows];           // what was subtracted before the exponentials they sum
  Barriers barriers;
};

/// A position in a ring of `size` stages, and which way round it is.
struct Ring {
  int stage = 0;
  std::uint32_t parity = 0;
  __device__ __forceinline__ void advance(int size) {
    if (++stage == size) {
      stage = 0;
      parity ^= 1;
    }
  }
};

__device__ __forceinline__ bool has_units(const CtaWork::Lane& lane) { return lane.begin[0] < lane.end[0]; }
__device__ __forceinline__ int num_units(const CtaWork::Lane& lane) {
  return lane.end[0] - lane.begin[0] + lane.end[1] - lane.begin[1];
}

}  // namespace trunkline::kernels::sm90
