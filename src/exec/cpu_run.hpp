// Runs a plan on the CPU: every (item, KV head), then every (merge, KV head), over a thread pool.
#pragma once

#include "exec/cpu_workspace.hpp"
#include "exec/thread_pool.hpp"
#include "kernels/cpu/kernels.hpp"
#include "trunkline/plan.hpp"

namespace trunkline::exec {

/// The phases of a plan, and after them the merges as one more phase. A unit is an item and a group of neighbouring KV
/// heads, or a merge and one KV head; those of an entry follow one another.
class PlanJob final : public Job {
 public:
  PlanJob(const kernels::cpu::Target& target, const kernels::AttentionParams& params, const Plan& plan,
          const CpuLayout& layout, int num_threads);

  int num_phases() const noexcept override { return merge_phase() + 1; }
  std::int64_t num_units(int phase) const noexcept override;
  std::int64_t grain(int phase) const noexcept override;
  void work(int phase, std::int64_t unit, int thread) const noexcept override;

 private:
  /// Items of a phase, and into how many groups the heads of each are cut.
  struct Lanes {
    std::int64_t wide_items, wide_groups, narrow_items, narrow_groups;
  };
  Lanes lanes(int phase) const noexcept;
  int merge_phase() const noexcept { return static_cast<int>(plan_.phases.size()); }

  const kernels::cpu::Target& target_;
  const kernels::AttentionParams& params_;
  const Plan& plan_;
  const CpuLayout& layout_;
  int num_threads_;
};

}  // namespace trunkline::exec
