// Hands out the units (item, KV head) of a plan in its order, one at a time, to whichever CTA asks next.
#pragma once

#include <cstdint>

#include "kernels/cuda/instructions.cuh"
#include "kernels/cuda/rows.cuh"

namespace trunkline::kernels::sm80 {

/// What the counters of a launch count; the merge kernel sets both back to 0.
enum Counter : int { next_unit, units_done, counters_used };

struct Unit {
  CudaItem item;
  std::int32_t kv_head;
};

/// One thread's view. Units are numbered over all phases, KV heads innermost, and are asked for in ascending order.
class Units {
 public:
  __device__ Units(const PlanHeader* plan, std::int32_t num_kv_heads)
      : items_(cuda::plan_array<CudaItem>(plan, plan->items)),
        phases_(cuda::plan_array<Phase>(plan, plan->phases)),
        num_phases_(plan->num_phases),
        num_kv_heads_(num_kv_heads) {}

  /// False when the plan has no such unit.
  __device__ bool find(std::uint32_t number, Unit& unit) {
    for (; phase_ < num_phases_; ++phase_) {
      const Phase phase = phases_[phase_];
      const auto count = static_cast<std::uint32_t>(phase.item_end - phase.item_begin) * num_kv_heads_;
      const std::uint32_t in_phase = number - phase_first_;
      if (in_phase < count) {
        unit.item = items_[phase.item_begin + in_phase / num_kv_heads_];
        unit.kv_head = static_cast<std::int32_t>(in_phase % num_kv_heads_);
        return true;
      }
      phase_first_ += count;
    }
    return false;
  }

  /// Of the unit found last: how many units are in the phases before its own.
  __device__ std::uint32_t units_before_phase() const { return phase_first_; }
  __device__ bool has_barriers() const { return num_phases_ > 1; }

 private:
  const CudaItem* items_;
  const Phase* phases_;
  std::int32_t num_phases_;
  std::uint32_t num_kv_heads_;
  std::int32_t phase_ = 0;
  std::uint32_t phase_first_ = 0;
};

/// Waits until `count` units are done. Never for good: units are taken in order by CTAs that run, so the first one that
/// is not done waits for nothing.
__device__ inline void wait_for_units(const std::uint32_t* counters, std::uint32_t count) {
  while (cuda::load_acquire(counters + units_done) < count) {
  }
}

}  // namespace trunkline::kernels::sm80
