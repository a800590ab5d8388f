// What a workspace holds, and where: one function carves the block for the size that is asked for and for construction.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "exec/table_copy.hpp"
#include "trunkline/attention.hpp"

namespace trunkline::exec {

/// The quantities that decide a workspace's memory and what a plan in it means. Attentions of equal sizes (layers that
/// differ in scale or dtype, say) may share a workspace and its plan.
struct WorkspaceSizes {
  int max_requests = 0;
  int max_query_tokens = 0;
  int max_table_width = 0;
  std::int64_t max_partial_rows = 0;
  int num_kv_heads = 0;
  int group_size = 0;
  int head_dim = 0;
  int page_size = 0;
  int num_threads = 0;
  std::size_t scratch_bytes = 0;  // of one thread

  friend bool operator==(const WorkspaceSizes&, const WorkspaceSizes&) = default;
};

/// Addresses within the block; offsets when the block is null.
struct WorkspaceLayout {
  std::int32_t* table;     // [max_requests, max_table_width]
  std::int32_t* seq_lens;  // [max_requests], the planned ones
  float* partial_out;      // [max_partial_rows, num_kv_heads, head_dim]
  float* partial_lse;      // [max_partial_rows, num_kv_heads]
  std::byte* scratch;      // [num_threads, scratch_stride]
  std::size_t scratch_stride;
  std::size_t bytes;  // of the whole block
};

/// Every array begins on a cache line of its own.
inline constexpr std::size_t block_alignment = 64;

/// Throws invalid_argument when the sizes do not fit an address space.
WorkspaceLayout carve(std::byte* block, const WorkspaceSizes& sizes);

}  // namespace trunkline::exec

namespace trunkline {

struct Workspace::Impl {
  /// With a null block it allocates its own.
  Impl(const exec::WorkspaceSizes& sizes, std::byte* block);

  /// The plan in `spare` was made from the forest, which is within capacity: makes it the plan, and brings table and
  /// lengths up to date. Changes nothing when it throws bad_alloc.
  void adopt_spare(const Forest& forest);

  struct Free {
    void operator()(std::byte* block) const noexcept;
  };
  exec::WorkspaceSizes sizes;
  std::unique_ptr<std::byte, Free> own;  // null: the caller's memory
  exec::WorkspaceLayout layout;
  exec::TableCopy table;

  Plan plan;   // the last one that was made
  Plan spare;  // the next one is made here, so that an error leaves the last as it was
  bool planned = false;
  std::int64_t num_query_tokens = 0;
  std::int32_t num_requests = 0;
  // The plan's segments with rows of `table`, when those are not the forest's.
  std::vector<Segment> renumbered_segments;
};

}  // namespace trunkline
