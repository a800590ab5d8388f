// What Attention and Workspace leave to the device: one pair of implementations per backend.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "kernels/params.hpp"
#include "trunkline/attention.hpp"

namespace trunkline::exec {

/// The quantities that decide a workspace's memory and what a plan in it means. Attentions of equal sizes (layers that
/// differ in scale or dtype, say) may share a workspace and its plan.
struct WorkspaceSizes {
  Device device;
  int max_requests = 0;
  int max_table_width = 0;
  PlanLimits limits;
  int num_kv_heads = 0;
  int group_size = 0;
  int head_dim = 0;
  int page_size = 0;
  int num_workers = 0;            // threads on the CPU, CTAs of the grid on CUDA
  std::size_t scratch_bytes = 0;  // CPU: of one thread
  bool scheduled = false;         // CUDA: the plan block holds the static schedule

  friend bool operator==(const WorkspaceSizes&, const WorkspaceSizes&) = default;
};

/// The memory of a workspace and what it holds of the last plan. Addresses are fixed from construction on.
class WorkspaceMemory {
 public:
  virtual ~WorkspaceMemory() = default;

  /// Throws when no plan can be taken on this stream now. Called before anything is planned or changed.
  virtual void check_planning(Stream) const {}
  /// Makes `plan`, which was made from `forest` and lies within the limits, the one that later runs on the stream see:
  /// the block tables are brought up to date, and what else kernels read. Forest and plan may change after the call.
  virtual void take(const Forest& forest, const Plan& plan, Stream stream) = 0;
  /// The largest page of the planned tables, compared as unsigned; nothing when no request has a page.
  virtual std::optional<std::int32_t> largest_page() const noexcept = 0;
};

/// Runs plans on a device. Immutable after construction and safe to share by threads.
class Executor {
 public:
  virtual ~Executor() = default;

  /// "cpu/avx3"
  virtual const std::string& kernel() const noexcept = 0;
  /// What to plan with.
  virtual const DeviceSpec& device_spec() const noexcept = 0;
  virtual double lse_bound_factor() const noexcept { return 1; }
  virtual int num_threads() const noexcept { return 1; }
  virtual int num_ctas() const noexcept { return 0; }

  /// Fills in what depends on the backend.
  virtual void complete(WorkspaceSizes& sizes) const = 0;
  /// Of the block that `make_memory` takes, and the alignment of its address. Throws invalid_argument when the sizes do
  /// not fit an address space.
  virtual std::size_t block_bytes(const WorkspaceSizes& sizes) const = 0;
  virtual std::size_t block_alignment() const noexcept = 0;
  /// With a null block it allocates its own.
  virtual std::unique_ptr<WorkspaceMemory> make_memory(const WorkspaceSizes& sizes, std::byte* block) const = 0;

  /// `params` holds shapes and the caller's arrays, checked as far as every backend checks them; the rest comes from
  /// `memory` and `plan`. Throws before anything is written.
  virtual void run(kernels::AttentionParams params, std::int64_t num_pages, const Plan& plan, WorkspaceMemory& memory,
                   Stream stream) const = 0;
};

}  // namespace trunkline::exec
