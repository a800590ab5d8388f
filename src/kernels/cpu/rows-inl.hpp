// Rows in and out of the kernels: q to f32, results to a partial or to the caller's out. Included once per target.
#if defined(TRUNKLINE_KERNELS_CPU_ROWS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef TRUNKLINE_KERNELS_CPU_ROWS_INL
#undef TRUNKLINE_KERNELS_CPU_ROWS_INL
#else
#define TRUNKLINE_KERNELS_CPU_ROWS_INL
#endif

#include "kernels/cpu/simd-inl.hpp"
#include "kernels/cpu/softmax.hpp"
#include "kernels/cpu/tokens.hpp"

HWY_BEFORE_NAMESPACE();
namespace trunkline::kernels::cpu::HWY_NAMESPACE {

/// q of row `row`, times `factor`, to f32: head_dim values, zeros up to the next multiple of `lanes`.
inline void read_query(const AttentionParams& params, std::int32_t row, std::int32_t head, float factor, float* to) {
  const std::int64_t offset = RowPlace(params, row, head).offset(params.q);
  visit_element(params.q_element, [&](const auto* type) HWY_ATTR {
    load_row(static_cast<decltype(type)>(params.q.data) + offset, params.head_dim, to);
  });
  for (int i = 0; i < params.head_dim; i += lanes) store(hn::Mul(load(to + i), hn::Set(F32(), factor)), to + i);
}

/// To the caller's out. `from` is readable up to the next multiple of `lanes`.
inline void write_out(const AttentionParams& params, std::int32_t row, std::int32_t head, const float* from) {
  const std::int64_t offset = RowPlace(params, row, head).offset(params.out);
  visit_element(params.q_element, [&](const auto* type) HWY_ATTR {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(type)>>;
    store_row(from, params.head_dim, static_cast<T*>(params.out.data) + offset);
  });
}

/// The normalised result of row `r` of an item, to its partial or to the caller.
inline void write_row(const AttentionParams& params, const WorkItem& item, std::int32_t r, std::int32_t head,
                      const float* from) {
  if (item.partial_begin >= 0) {
    const std::int64_t partial = std::int64_t{item.partial_begin + r} * params.num_kv_heads + head;
    store_row(from, params.head_dim, params.partial_out + partial * params.head_dim);
  } else {
    write_out(params, item.row_begin + r, head, from);
  }
}

}  // namespace trunkline::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
