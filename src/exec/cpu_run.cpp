#include "exec/cpu_run.hpp"

#include <algorithm>

#include "base/check.hpp"

namespace trunkline::exec {

kernels::Element to_element(DType dtype) {
  switch (dtype) {
    case DType::float16:
      return kernels::Element::f16;
    case DType::bfloat16:
      return kernels::Element::bf16;
    case DType::float32:
    case DType::float8_e4m3:  // refused by AttentionConfig::validate
      break;
  }
  return kernels::Element::f32;
}

kernels::KvPlane to_plane(const KvView::Plane& plane) {
  return {plane.data, plane.page_stride, plane.token_stride, plane.head_stride};
}

kernels::RowsView to_rows(const TensorView& view) { return {view.data, view.strides[0], view.strides[1]}; }

std::int64_t PlanJob::num_units(int phase) const noexcept {
  if (phase == merge_phase()) return static_cast<std::int64_t>(plan_.merges.size()) * params_.num_kv_heads;
  return num_items(phase) * head_groups(phase);
}

std::int64_t PlanJob::num_items(int phase) const noexcept {
  return plan_.phases[phase].item_end - plan_.phases[phase].item_begin;
}

// The heads of an item are best read together (see the few-row kernel), but every thread must have some 16 units, so
// that the last ones to finish are a small part of the phase.
std::int64_t PlanJob::head_groups(int phase) const noexcept {
  const std::int64_t items = std::max<std::int64_t>(1, num_items(phase));
  return std::clamp<std::int64_t>(ceil_div<std::int64_t>(16 * num_threads_, items), 1, params_.num_kv_heads);
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
  const std::int64_t groups = head_groups(phase), item = unit / groups, group = unit % groups;
  target_.attend(params_, static_cast<std::int32_t>(plan_.phases[phase].item_begin + item),
                 static_cast<std::int32_t>(group * heads / groups),
                 static_cast<std::int32_t>((group + 1) * heads / groups), scratch);
}

}  // namespace trunkline::exec
