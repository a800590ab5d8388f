// Partials to results. Included once per target.
#if defined(TRUNKLINE_KERNELS_CPU_MERGE_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef TRUNKLINE_KERNELS_CPU_MERGE_INL
#undef TRUNKLINE_KERNELS_CPU_MERGE_INL
#else
#define TRUNKLINE_KERNELS_CPU_MERGE_INL
#endif

#include "kernels/cpu/rows-inl.hpp"
#include "kernels/cpu/simd-inl.hpp"
#include "kernels/cpu/softmax.hpp"
#include "merge/state.hpp"

HWY_BEFORE_NAMESPACE();
namespace trunkline::kernels::cpu::HWY_NAMESPACE {

/// out = combine(weights, out, other), as in merge/state.hpp, for a row: a weight of 0 keeps its side out altogether.
inline void combine_row(const merge::Weights& weights, float* out, const float* other, int head_dim) {
  const auto each = [&](auto&& value) HWY_ATTR {
    int i = 0;
    for (; i + lanes <= head_dim; i += lanes) store(value(load(out + i), load(other + i)), out + i);
    if (i < head_dim) store(value(load(out + i), load_first(other + i, head_dim - i)), out + i);
  };
  const Vec a = hn::Set(F32(), weights.a), b = hn::Set(F32(), weights.b);
  if (weights.a == 0.0f && weights.b == 0.0f) {
    each([&](Vec, Vec) HWY_ATTR { return hn::Zero(F32()); });
  } else if (weights.a == 0.0f) {
    each([&](Vec, Vec theirs) HWY_ATTR { return hn::Mul(b, theirs); });
  } else if (weights.b == 0.0f) {
    each([&](Vec ours, Vec) HWY_ATTR { return hn::Mul(a, ours); });
  } else {
    each([&](Vec ours, Vec theirs) HWY_ATTR { return hn::MulAdd(a, ours, hn::Mul(b, theirs)); });
  }
}

inline void merge_rows(const AttentionParams& params, const Merge& merge, std::int32_t head, Scratch scratch) {
  float* out = ScratchCutter(scratch).take<float>(params.head_dim + lanes);
  for (std::int32_t r = 0; r < merge.num_rows; ++r) {
    float lse = minus_infinity;
    for (int i = 0; i < params.head_dim; i += lanes) store(hn::Zero(F32()), out + i);
    for (std::int32_t s = 0; s < merge.num_sources; ++s) {
      const std::int64_t partial = params.merge_sources[merge.source_begin + s] + r;
      const std::int64_t index = partial * params.num_kv_heads + head;
      const merge::Weights weights = merge::weights(lse, params.partial_lse[index]);
      combine_row(weights, out, params.partial_out + index * params.head_dim, params.head_dim);
      lse = weights.lse;
    }
    write_out(params, merge.row_begin + r, head, out);
    write_lse(params, merge.row_begin + r, head, lse);
  }
}

}  // namespace trunkline::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
