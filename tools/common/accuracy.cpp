#include "common/accuracy.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "common/random.hpp"
#include "common/scalar.hpp"

namespace trunkline::tools {
namespace {

std::vector<ReferenceRow> draw_rows(std::int64_t num_tokens, std::int64_t num_heads, int num_rows, std::uint64_t seed) {
  const std::int64_t all = num_tokens * num_heads;
  std::vector<std::int64_t> chosen;
  if (all <= num_rows) {
    chosen.resize(static_cast<std::size_t>(all));
    std::iota(chosen.begin(), chosen.end(), 0);
  } else {
    Random random(seed);
    for (int i = 0; i < num_rows; ++i) {
      chosen.push_back(static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(all))));
    }
  }
  std::vector<ReferenceRow> rows;
  for (std::int64_t row : chosen) {
    rows.push_back({static_cast<std::int32_t>(row / num_heads), static_cast<std::int32_t>(row % num_heads)});
  }
  return rows;
}

void compare(Accuracy& accuracy, double got, double expected, double bound) {
  if (got == expected) return;  // equal infinities too
  constexpr double infinity = std::numeric_limits<double>::infinity();
  double error = std::fabs(got - expected);
  if (std::isnan(error)) error = infinity;
  const double relative = bound > 0 ? error / bound : infinity;
  if (relative > accuracy.worst || accuracy.error_bound == 0) {
    accuracy.worst = std::max(accuracy.worst, relative);
    accuracy.max_error = error;
    accuracy.error_bound = bound;
  }
}

}  // namespace

void Accuracy::merge(const Accuracy& other) {
  const int all_rows = rows + other.rows;
  if (other.worst > worst || rows == 0) *this = other;
  rows = all_rows;
}

Accuracy compare_with_reference(const Computed& computed, int num_rows, std::uint64_t seed) {
  std::vector<std::int32_t> qo_lens(computed.qo_lens.begin(), computed.qo_lens.end());
  if (qo_lens.empty()) qo_lens.assign(computed.seq_lens.size(), 1);
  const auto rows = draw_rows(computed.q.shape[0], computed.q.shape[1], num_rows, seed);
  Accuracy accuracy;
  if (rows.empty()) return accuracy;  // an empty list would mean every row
  const ReferenceResult expected =
      reference_attention(computed.q, computed.kv, computed.tables, computed.seq_lens, qo_lens, computed.scale, rows);
  const std::int64_t head_dim = computed.q.shape[2];
  accuracy.rows = static_cast<int>(rows.size());
  for (std::size_t r = 0; r < rows.size(); ++r) {
    const std::int64_t at = rows[r].token * computed.out.strides[0] + rows[r].head * computed.out.strides[1];
    for (std::int64_t d = 0; d < head_dim; ++d) {
      const std::size_t i = r * static_cast<std::size_t>(head_dim) + static_cast<std::size_t>(d);
      compare(accuracy, load_element(computed.out.data, computed.out.dtype, at + d * computed.out.strides[2]),
              expected.out[i], expected.bound[i]);
    }
    if (computed.lse.empty()) continue;
    const std::int64_t lse_at = rows[r].token * computed.lse.strides[0] + rows[r].head * computed.lse.strides[1];
    compare(accuracy, load_element(computed.lse.data, computed.lse.dtype, lse_at), expected.lse[r],
            expected.lse_bound[r]);
  }
  return accuracy;
}

}  // namespace trunkline::tools
