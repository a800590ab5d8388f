// The entries of a plan: plain structs in flat arrays that a kernel reads as they are. Only <cstdint>.
//
// Rows. A forest numbers its query tokens in forest order; row = query_token * group_size + head_in_group. All entries
// speak of rows in this numbering and stand for every KV head at once.
#pragma once

#include <cstdint>

namespace trunkline {

/// One query token, in forest order: where it lies in q and out, and which token positions it sees.
struct QueryToken {
  std::int32_t q_index;        // row of q, out and lse, in the caller's order
  std::int32_t request;        // caller's index of its request
  std::int32_t visible_begin;  // first position seen
  std::int32_t visible_end;    // one past the last position seen; <= visible_begin: sees nothing
};

/// A run of tokens, by absolute position, to be read through one row of the block table.
struct Segment {
  std::int32_t table_row;    // row of the block table
  std::int32_t token_begin;  // first position
  std::int32_t token_end;    // one past the last position
};

/// (rows, segments) -> a partial, or directly the result. Segments ascend in position.
struct WorkItem {
  std::int32_t row_begin;
  std::int32_t num_rows;
  std::int32_t segment_begin;
  std::int32_t num_segments;
  std::int32_t partial_begin;  // partial row of row_begin; -1: rows are complete, write out and lse directly
  std::int32_t masked;         // 1: some row does not see every token of the segments; 0: no masking is needed
};

/// The most rows of one merge.
inline constexpr std::int32_t max_merge_rows = 16;

/// (rows, partials in ascending position) -> the result. Every source covers all the rows. Source i holds the partial
/// of row_begin + r in partial row merge_sources[source_begin + i] + r.
struct Merge {
  std::int32_t row_begin;
  std::int32_t num_rows;  // 1 to max_merge_rows
  std::int32_t source_begin;
  // 0: no token is visible, out = 0 and lse = -inf. 1: one partial, of an item that could not write these rows directly
  // because it serves rows with other partials too.
  std::int32_t num_sources;
};

/// Items of one phase: wide [item_begin, wide_end), narrow [wide_end, item_end). Phases run one after the other;
/// `auto` and `unshared` have one.
struct Phase {
  std::int32_t item_begin;
  std::int32_t wide_end;
  std::int32_t item_end;
};

}  // namespace trunkline
