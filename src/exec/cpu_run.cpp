#include "exec/cpu_run.hpp"

#include <algorithm>

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
  const Phase& items = plan_.phases[phase];
  return std::int64_t{items.item_end - items.item_begin} * params_.num_kv_heads;
}

// Items come longest first and differ widely: one at a time. Merges are many, short and alike: a thread takes several,
// few enough that the last ones to finish are a small part of the phase.
std::int64_t PlanJob::grain(int phase) const noexcept {
  if (phase != merge_phase()) return 1;
  return std::max<std::int64_t>(1, num_units(phase) / (16 * num_threads_));
}

void PlanJob::work(int phase, std::int64_t unit, int thread) const noexcept {
  const auto entry = static_cast<std::int32_t>(unit / params_.num_kv_heads);
  const auto head = static_cast<std::int32_t>(unit % params_.num_kv_heads);
  const kernels::cpu::Scratch scratch{layout_.scratch + thread * layout_.scratch_stride, layout_.scratch_stride};
  if (phase == merge_phase()) {
    target_.merge(params_, entry, head, scratch);
  } else {
    target_.attend(params_, plan_.phases[phase].item_begin + entry, head, scratch);
  }
}

}  // namespace trunkline::exec
