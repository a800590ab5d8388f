// The memory of a CUDA workspace, and how a plan gets there while earlier steps still run.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "exec/cuda/plan_block.hpp"
#include "exec/cuda/runtime.hpp"
#include "exec/executor.hpp"
#include "exec/table_tracker.hpp"
#include "kernels/cuda/table.hpp"

namespace trunkline::exec::cuda {

/// Addresses within the block in device memory; offsets when the block is null.
struct DeviceLayout {
  std::byte* plan;          // a PlanHeader and what follows it
  std::int32_t* table;      // [max_requests, max_table_width]
  std::uint32_t* counters;  // [num_counters]
  float* partial_out;       // [max_partial_rows, num_kv_heads, head_dim]
  float* partial_lse;       // [max_partial_rows, num_kv_heads]
  std::size_t bytes;        // of the whole block

  static constexpr std::size_t alignment = 256;
  /// Throws invalid_argument when the sizes do not fit an address space.
  static DeviceLayout carve(std::byte* block, const WorkspaceSizes& sizes);
};

class DeviceWorkspace final : public WorkspaceMemory {
 public:
  /// With a null block it allocates its own, else the block must be memory of the device.
  DeviceWorkspace(const WorkspaceSizes& sizes, std::byte* block);
  ~DeviceWorkspace() override;

  void check_planning(Stream stream) const override;
  void take(const Forest& forest, const Plan& plan, Stream stream) override;
  std::optional<std::int32_t> largest_page() const noexcept override { return tracker_.largest_page(); }

  const DeviceLayout& layout() const noexcept { return layout_; }
  std::int64_t table_stride() const noexcept { return sizes_.max_table_width; }

 private:
  /// Host memory that the device reads: a plan, and changes of the table. In flight from the first call that reads it
  /// to its event.
  struct Slot {
    std::byte* plan = nullptr;
    kernels::cuda::TableRun* runs = nullptr;  // single entries from the front, longer runs from the back
    std::int32_t* values = nullptr;           // of the longer runs
    Event read;
  };
  // The host may be this many steps ahead of the device before `take` waits.
  static constexpr int num_slots = 4;

  Slot& next_slot();
  void write_table(int row, int first, const std::int32_t* source, int count);
  void enqueue_table();

  WorkspaceSizes sizes_;
  DeviceMemory own_;  // null: the caller's memory
  DeviceLayout layout_;
  TableTracker tracker_;
  PlanBlock plan_block_;
  std::vector<std::int32_t> request_of_row_;  // when rows of the table are requests

  PinnedMemory pinned_;
  std::array<Slot, num_slots> slots_;
  int slot_ = 0;

  // What the current slot holds of the table's changes, on their way to this stream.
  int num_singles_ = 0, num_runs_ = 0, num_values_ = 0;
  int max_runs_ = 0, max_values_ = 0;
  cudaStream_t stream_ = nullptr;
};

}  // namespace trunkline::exec::cuda
