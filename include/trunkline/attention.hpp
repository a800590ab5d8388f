// plan once per decode step, run once per layer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "trunkline/config.hpp"
#include "trunkline/kv_view.hpp"
#include "trunkline/plan.hpp"
#include "trunkline/tensor.hpp"

namespace trunkline {

class Workspace;

/// How an Attention uses its device.
struct ExecutionOptions {
  int num_threads = 1;      // CPU: threads that compute, the caller's included
  std::string simd_target;  // CPU: one of `simd_targets()`; empty: the best this machine has
  /// What to plan with; default: shipped numbers, DeviceSpec::generic_cpu(num_threads) on the CPU and
  /// DeviceSpec::h200() cut to the kernel on CUDA. Given, the plan and so the bits of the result depend on it, not on
  /// num_threads. Lanes have at most the rows per item that the kernel takes (256 on the CPU), and num_workers of the
  /// kernel sm90 is num_ctas.
  std::optional<DeviceSpec> device;
  /// CUDA: "sm90" (Hopper, compute capability 9.0) or "sm80" (8.0 and higher). Named, it is that one or an error;
  /// empty: sm90 where it runs and computes the config, else sm80.
  std::string kernel{};
  int num_ctas = 0;  // CUDA: CTAs of the grid, fewer leave SMs to what runs beside; 0: as many as the device holds
};

/// Exact attention of a batch over paged KV. Immutable after construction and safe to share by threads: kernel and grid
/// depend on config and capacity alone. On the CPU it owns the thread pool that was asked for; runs of several threads
/// take turns on it (with num_threads = 1 each computes on its caller, at the same time). Its threads do not follow a
/// fork: in the child a run of several throws unsupported. The same plan and inputs give the same bits on every run and
/// with every number of threads.
///
/// On CUDA, plan and run enqueue work on a stream and return. `run` may be captured into a graph: the launch finds the
/// plan of the moment in the workspace, so between replays `plan` moves on to another forest. A capture holds the
/// arguments of its run, so q, out and lse then have room for every later batch and the KV cache for its pages.
class Attention {
 public:
  /// Throws invalid_argument, unsupported for a device, SIMD target, kernel or feature this build does not have,
  /// device_error when the system has no more threads or no usable CUDA device.
  Attention(const AttentionConfig& config, const Capacity& capacity, Device device = {},
            const ExecutionOptions& options = {});
  ~Attention();
  Attention(Attention&&) noexcept;
  Attention& operator=(Attention&&) noexcept;

  /// Plans the forest into the workspace and brings the workspace's copy of the block tables up to date: only what
  /// changed when the forest is the next version of the one planned last. The forest may change or go after the call.
  /// On CUDA it copies on `stream`, the stream of the runs that follow, and waits for earlier steps only when it is
  /// more than three of them ahead. Throws capacity_exceeded (and says by how much) or invalid_argument, which a stream
  /// that captures is too; the workspace then keeps its last plan.
  void plan(const Forest& forest, Workspace& workspace, Stream stream = {}) const;

  /// Computes out and lse of the planned batch. The KV of the new tokens is already in the pages.
  ///   q, out    [sum(qo_lens) or more, num_qo_heads, head_dim], q_dtype, contiguous head_dim, caller's order; no
  ///             element of out is another of out, one of q (slices of one packed tensor are fine), or lies in a page
  ///             or in memory that the workspace was given; nor does one of lse
  ///   kv        as the config says; every page of the planned tables lies in [0, kv.num_pages)
  ///   lse       f32 [sum(qo_lens) or more, num_qo_heads], natural logarithm, or an empty view when not wanted
  ///   seq_lens  optional, on the device, int32 [num_requests], each 0 to the planned one: rows see nothing beyond. On
  ///             CUDA the host does not read them
  /// A row that sees no token gives out = 0 and lse = -inf. Rows beyond sum(qo_lens) are neither read nor written.
  /// Throws invalid_argument before anything is written, device_error when CUDA refuses the launch.
  void run(Workspace& workspace, const TensorView& q, const KvView& kv, const TensorView& out,
           const TensorView& lse = {}, Stream stream = {}, const std::int32_t* seq_lens = nullptr) const;

  /// Bytes a Workspace for this Attention takes on the device.
  std::size_t workspace_bytes() const noexcept;

  const AttentionConfig& config() const noexcept;
  const Capacity& capacity() const noexcept;
  const Device& device() const noexcept;
  const DeviceSpec& device_spec() const noexcept;
  /// The kernel that runs, "cpu/avx3", "cuda/sm90".
  const std::string& kernel() const noexcept;
  /// How many times `ReferenceResult::lse_bound` its lse may be off: 1, but 1 + head_dim / 32 for cuda/sm90. The bound
  /// is of sums rounded to nearest; Hopper's matrix units cut off what does not fit and lose up to an ulp (half of the
  /// bound, at least) with every 16 products, in one direction when scores have one sign. `out` keeps its bound: an
  /// error common to all scores of a row drops out.
  double lse_bound_factor() const noexcept;
  int num_threads() const noexcept;
  int num_ctas() const noexcept;  // 0 on the CPU

 private:
  friend class Workspace;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// The memory of one stream in flight: the plan, the block tables, the partials and the threads' scratch, for one
/// thread at a time. Addresses are fixed from construction on. It holds no reference to the Attention it was made for,
/// and serves, plan included, every other of the same sizes: device, capacity, the plan's limits, heads, head_dim, page
/// size and number of threads or CTAs. On CUDA it has pinned host memory beside its block, which captured graphs do not
/// refer to; it must outlive the work that uses it.
class Workspace {
 public:
  /// Throws std::bad_alloc, whose what() says how many bytes it wanted, or device_error on CUDA.
  explicit Workspace(const Attention& attention);
  /// In the caller's memory on the attention's device: at least workspace_bytes(), aligned to 64 bytes on the CPU and
  /// 256 on CUDA, outliving this. Throws invalid_argument.
  Workspace(const Attention& attention, void* memory, std::size_t bytes);
  ~Workspace();
  Workspace(Workspace&&) noexcept;
  Workspace& operator=(Workspace&&) noexcept;

  /// The plan made last; empty before the first.
  const Plan& plan() const noexcept;

 private:
  friend class Attention;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace trunkline
