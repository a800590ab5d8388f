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

HWY_BEFORE_NAMESPACE();
namespace trunkline::kernels::cpu::HWY_NAMESPACE {

/// out += weight * other, for a row.
inline void accumulate_row(float weight, float* out, const float* other, int head_dim) {
  const Vec w = hn::Set(F32(), weight);
  int i = 0;
  for (; i + lanes <= head_dim; i += lanes) store(hn::MulAdd(w, load(other + i), load(out + i)), out + i);
  if (i < head_dim) store(hn::MulAdd(w, load_first(other + i, head_dim - i), load(out + i)), out + i);
}

/// All sources against the greatest lse, and one division at the end: a chain of pairwise merges would round lse at
/// every step.
inline void merge_rows(const AttentionParams& params, const Merge& merge, std::int32_t head, Scratch scratch) {
  float* out = ScratchCutter(scratch).take<float>(params.head_dim + lanes);
  for (std::int32_t r = 0; r < merge.num_rows; ++r) {
    const auto index = [&](std::int32_t source) {
      const std::int64_t partial = params.merge_sources[merge.source_begin + source] + r;
      return partial * params.num_kv_heads + head;
    };
    float most = minus_infinity;
    for (std::int32_t s = 0; s < merge.num_sources; ++s) most = std::max(most, params.partial_lse[index(s)]);
    for (int i = 0; i < params.head_dim; i += lanes) store(hn::Zero(F32()), out + i);
    float sum = 0;
    for (std::int32_t s = 0; s < merge.num_sources; ++s) {
      const float lse = params.partial_lse[index(s)];
      const float weight = lse == minus_infinity ? 0.0f : std::exp(lse - most);
      if (weight == 0.0f) continue;  // whatever out holds then, NaN included, stays out
      sum += weight;
      accumulate_row(weight, out, params.partial_out + index(s) * params.head_dim, params.head_dim);
    }
    const Vec factor = hn::Set(F32(), sum == 0.0f ? 0.0f : 1.0f / sum);
    for (int i = 0; i < params.head_dim; i += lanes) store(hn::Mul(factor, load(out + i)), out + i);
    write_out(params, merge.row_begin + r, head, out);
    write_lse(params, merge.row_begin + r, head, most + std::log(sum));  // without a token -inf, as both terms are
  }
}

}  // namespace trunkline::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
