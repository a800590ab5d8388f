#include "exec/cpu_run.hpp"

#include <algorithm>

#include "base/check.hpp"

namespace trunkline::exec {

PlanJob::PlanJob(const kernels::cpu::Target& target, const kernels::AttentionParams& params, const Plan& plan,
                 const CpuLayout& layout, int num_threads)
    : target_(target), params_(params), plan_(plan), layout_(layout), num_threads_(num_threads) {}

// Heads that are read together save memory traffic: all of a few-row item, eight of a many-row one, whose tiles are
// short then. But every thread must have some units of each lane, so that the last ones to finish are a small part of
// it.
PlanJob::Lanes PlanJob::lanes(int phase) const noexcept {
  const Phase& items = plan_.phases[phase];
  const std::int64_t heads = params_.num_kv_heads, wide = items.wide_end - items.item_begin,
                     narrow = items.item_end - items.wide_end;
  const auto groups = [&](std::int64_t num_items, std::int64_t heads_together, int units_per_thread) {
    const std::int64_t wanted =
        ceil_div<std::int64_t>(units_per_thread * num_threads_, std::max<std::int64_t>(num_items, 1));
    return std::clamp<std::int64_t>(std::max(wanted, ceil_div(heads, heads_together)), 1, heads);
  };
  return {wide, groups(wide, 8, 2), narrow, groups(narrow, heads, 16)};
}

std::int64_t PlanJob::num_units(int phase) const noexcept {
  if (phase == merge_phase()) return static_cast<std::int64_t>(plan_.merges.size()) * params_.num_kv_heads;
  const Lanes lane = lanes(phase);
  return lane.wide_items * lane.wide_groups + lane.narrow_items * lane.narrow_groups;
}

// Items come longest first and differ widely: one at a time. Merges are many, short and alike: a thread takes several,
// few enough that the last ones to finish are a small part of the phase.
std::int64_t PlanJob::grain(int phase) const noexcept {
  if (phase != merge_phase()) return 1;
  return std::max<std::int64_t>(1, num_units(phase) / (16 * num_threads_));
}

void PlanJob::work(int phase, std::int64_t unit, int thread) const noexcept {
  const kernels::cpu::Scratch scratch{layout_.scratch + thread * layout_.scratch_stride, layout_.scratch_stride};
  const std::int64_t heads = params_.num_kv_heads;
  if (phase == merge_phase()) {
    target_.merge(params_, static_cast<std::int32_t>(unit / heads), static_cast<std::int32_t>(unit % heads), scratch);
    return;
  }
  const Lanes lane = lanes(phase);
  const std::int64_t wide_units = lane.wide_items * lane.wide_groups;
  const bool wide = unit < wide_units;
  const std::int64_t groups = wide ? lane.wide_groups : lane.narrow_groups, in_lane = wide ? unit : unit - wide_units;
  const std::int64_t item = plan_.phases[phase].item_begin + (wide ? 0 : lane.wide_items) + in_lane / groups;
  const std::int64_t group = in_lane % groups;
  target_.attend(params_, static_cast<std::int32_t>(item), static_cast<std::int32_t>(group * heads / groups),
                 static_cast<std::int32_t>((group + 1) * heads / groups), scratch);
}

}  // namespace trunkline::exec
