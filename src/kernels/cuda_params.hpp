// What crosses to the CUDA kernels beside AttentionParams: the plan as one block of device memory, which one copy
// refreshes. Its address is fixed and all counts and offsets are read from it, so that a captured launch stays right
// when the plan changes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/divisor.hpp"
#include "kernels/params.hpp"

namespace trunkline::kernels {

/// Kernels that run the static schedule take several KV heads of a short item at once: as many as have so few rows
/// together, of items of so few tokens.
inline constexpr int packed_rows = 8, packed_tokens = 96;
/// Rows of a wide item that the first CTA of a pair takes, the second those behind them.
inline constexpr int paired_rows_each = 128;
/// Their stages of 64 tokens, dealt to the two lanes.
inline constexpr int ring_stages = 6, tile_tokens = 64;

/// A WorkItem with its one segment: what a unit (item, KV head) of either kernel needs, in one sector.
struct alignas(32) CudaItem {
  std::int32_t row_begin;
  std::int16_t num_rows;
  std::int16_t masked;  // 1: some row does not see every token
  std::int32_t table_row;
  std::int32_t token_begin;  // absolute positions, token_begin < token_end
  std::int32_t token_end;
  std::int32_t partial_begin;  // partial row of row_begin; -1: write out and lse directly
  std::int32_t first_q;        // row of q of the item's first query token, the others following; -1: they do not
  std::int32_t heads_at_once;  // KV heads that are taken together where the schedule has them side by side, at most
};

/// The static schedule of one CTA in one phase: Plan::schedule, transposed.
struct CtaWork {
  static constexpr int num_first_pages = 16;
  /// Unit u is item u / num_kv_heads of the CudaItems from byte `items` of the block on, KV head u % num_kv_heads. The
  /// CTA takes the units of run 0, then those of run 1. Run 0 is empty only when both are. The two CTAs of a pair have
  /// the same units of different items: the first have up to 128 rows, the others what is left, which may be none.
  struct alignas(128) Lane {
    CudaItem first;  // the item of unit begin[0], so that its loads wait for nothing else
    std::uint32_t items;
    std::int32_t first_head;
    std::int32_t begin[2], end[2];
    std::int32_t num_stages;                    // of shared memory, that the lane's tokens pass through
    std::int32_t paired;                        // 1: CTAs 2i and 2i + 1 take these units together, and so many stages
    std::int32_t first_pages[num_first_pages];  // of the first item, from that of token_begin on, as far as it goes
  };
  Lane wide, narrow;
};

/// Warps of a CTA that merge, of kernels that run the static schedule.
inline constexpr int merge_warps = 8;

/// The beginning of the block. Offsets are in bytes from here.
struct alignas(128) PlanHeader {
  std::int32_t num_phases;
  std::int32_t num_items;
  std::int32_t num_merges;
  std::int32_t num_query_tokens;
  std::uint32_t query_tokens;   // QueryToken[num_query_tokens]
  std::uint32_t items;          // CudaItem[num_items], by phase, as in Plan::items
  std::uint32_t phases;         // Phase[num_phases]
  std::uint32_t merges;         // Merge[num_merges]
  std::uint32_t merge_sources;  // int32
  std::uint32_t num_bytes;      // of the block, this header included
  // A merge and KV head are shared out among the warps of all CTAs in pieces of so many rows, so that all have some.
  std::int32_t piece_rows;
  cuda::Divisor pieces;  // by the number of pieces
  // CtaWork[num_phases, at least 1][CTAs of the plan] follows at sizeof(PlanHeader) for kernels that run the static
  // schedule.
};

static_assert(sizeof(CudaItem) == 32 && sizeof(CtaWork) == 256 && sizeof(PlanHeader) == 128);

/// Everything one CUDA run reads and writes, in device memory.
struct CudaParams {
  AttentionParams attention;  // its pointers into the plan are null: see `plan`
  const PlanHeader* plan;
  std::uint32_t* counters;  // [num_counters], zero before the first launch; every launch leaves them ready for the next
};

inline constexpr int num_counters = 1024;

}  // namespace trunkline::kernels
