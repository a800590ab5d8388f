// The memory of a CPU workspace.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "exec/executor.hpp"
#include "exec/table_copy.hpp"

namespace trunkline::exec {

/// Addresses within the block; offsets when the block is null.
struct CpuLayout {
  std::int32_t* table;     // [max_requests, max_table_width]
  std::int32_t* seq_lens;  // [max_requests], the planned ones
  float* partial_out;      // [max_partial_rows, num_kv_heads, head_dim]
  float* partial_lse;      // [max_partial_rows, num_kv_heads]
  std::byte* scratch;      // [num_workers, scratch_stride]
  std::size_t scratch_stride;
  std::size_t bytes;  // of the whole block

  /// Every array begins on a cache line of its own.
  static constexpr std::size_t alignment = 64;
  /// Throws invalid_argument when the sizes do not fit an address space.
  static CpuLayout carve(std::byte* block, const WorkspaceSizes& sizes);
};

class CpuMemory final : public WorkspaceMemory {
 public:
  /// With a null block it allocates its own; throws bad_alloc, which says how large it would be.
  CpuMemory(const WorkspaceSizes& sizes, std::byte* block);

  /// Changes nothing when it throws bad_alloc.
  void take(const Forest& forest, const Plan& plan, Stream stream) override;
  std::optional<std::int32_t> largest_page() const noexcept override { return table_.largest_page(); }

  const CpuLayout& layout() const noexcept { return layout_; }
  const TableCopy& table() const noexcept { return table_; }
  std::span<const std::int32_t> planned_seq_lens() const noexcept {
    return {layout_.seq_lens, static_cast<std::size_t>(num_requests_)};
  }
  /// The plan's segments with rows of `table()`.
  const Segment* segments(const Plan& plan) const noexcept {
    return table_.rows_are_requests() ? renumbered_segments_.data() : plan.segments.data();
  }

 private:
  struct Free {
    void operator()(std::byte* block) const noexcept;
  };
  std::unique_ptr<std::byte, Free> own_;  // null: the caller's memory
  CpuLayout layout_;
  TableCopy table_;
  int max_requests_;
  std::int32_t num_requests_ = 0;
  std::vector<Segment> renumbered_segments_;
};

}  // namespace trunkline::exec
