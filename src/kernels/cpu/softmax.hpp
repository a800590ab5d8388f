// The scalar ends of online softmax: the scale, and a row's log-sum-exp.
#pragma once

#include <cmath>
#include <limits>

#include "kernels/cpu/tokens.hpp"
#include "kernels/params.hpp"

namespace trunkline::kernels::cpu {

inline constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

/// Scores stay unscaled dot products s of `q_factor * q`, whose greatest is the row's maximum m; the weight of a token
/// is exp2((s - m) * factor2). The subtraction comes first, so that the factor's rounding touches the distance to the
/// maximum alone. That needs a positive factor: a negative scale turns q's sign round, and a scale of 0 its magnitude.
struct Scale {
  float q_factor;     // 1, -1 or 0
  float factor;       // positive, natural base
  float factor2;      // the same for base 2,
  float factor2_low;  // and what it lacks

  explicit Scale(float scale)
      : q_factor(scale > 0   ? 1.0f
                 : scale < 0 ? -1.0f
                             : 0.0f),
        factor(scale == 0 ? 1.0f : std::fabs(scale)),
        factor2(static_cast<float>(factor * log2_e)),
        factor2_low(static_cast<float>(factor * log2_e - factor2)) {}

 private:
  static constexpr double log2_e = 1.4426950408889634;
};

/// From the greatest unscaled score and the sum of the weights relative to it; no token: sum = 0.
inline float log_sum_exp(const Scale& scale, float max, float sum) {
  if (!(sum > 0)) return sum == 0 ? minus_infinity : sum;  // NaN stays
  return static_cast<float>(static_cast<double>(max) * scale.factor + std::log(static_cast<double>(sum)));
}

/// The lse of row `row` to the caller, who may not want it.
inline void write_lse(const AttentionParams& params, std::int32_t row, std::int32_t head, float lse) {
  if (params.lse == nullptr) return;
  const RowPlace place(params, row, head);
  params.lse[place.q_index * params.lse_token_stride + place.query_head * params.lse_head_stride] = lse;
}

/// The lse of row `r` of an item to its partial or to the caller.
inline void write_lse(const AttentionParams& params, const WorkItem& item, std::int32_t r, std::int32_t head,
                      float lse) {
  if (item.partial_begin >= 0) {
    params.partial_lse[std::int64_t{item.partial_begin + r} * params.num_kv_heads + head] = lse;
  } else {
    write_lse(params, item.row_begin + r, head, lse);
  }
}

}  // namespace trunkline::kernels::cpu
