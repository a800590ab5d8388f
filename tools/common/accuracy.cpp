#include "common/accuracy.hpp"

#include <algorithm>
#include <cmath>
#include <future>
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
  rows.reserve(chosen.size());
  for (std::int64_t row : chosen) {
    rows.push_back({static_cast<std::int32_t>(row / num_heads), static_cast<std::int32_t>(row % num_heads)});
  }
  return rows;
}

void compare_element(Accuracy& accuracy, double got, double expected, double bound) {
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

Oracle::Oracle(const Computed& computed, int num_rows, std::uint64_t seed, int num_threads)
    : computed_(computed), rows_(draw_rows(computed.q.shape[0], computed.q.shape[1], num_rows, seed)) {
  if (rows_.empty()) return;  // an empty list would mean every row
  std::vector<std::int32_t> qo_lens(computed.qo_lens.begin(), computed.qo_lens.end());
  if (qo_lens.empty()) qo_lens.assign(computed.seq_lens.size(), 1);
  // Every thread computes a run of rows.
  const std::size_t parts = std::min(rows_.size(), static_cast<std::size_t>(std::max(num_threads, 1)));
  std::vector<std::future<ReferenceResult>> results;
  for (std::size_t part = 0; part < parts; ++part) {
    const std::size_t begin = rows_.size() * part / parts, end = rows_.size() * (part + 1) / parts;
    results.push_back(std::async(parts > 1 ? std::launch::async : std::launch::deferred, [&, begin, end] {
      return reference_attention(computed.q, computed.kv, computed.tables, computed.seq_lens, qo_lens, computed.scale,
                                 std::span(rows_).subspan(begin, end - begin));
    }));
  }
  const auto append = [](std::vector<double>& to, const std::vector<double>& from) {
    to.insert(to.end(), from.begin(), from.end());
  };
  for (auto& result : results) {
    const ReferenceResult part = result.get();
    append(expected_.out, part.out);
    append(expected_.lse, part.lse);
    append(expected_.bound, part.bound);
    append(expected_.lse_bound, part.lse_bound);
  }
}

Accuracy Oracle::compare(double lse_bound_factor) const {
  const TensorView& out = computed_.out;
  const TensorView& lse = computed_.lse;
  Accuracy accuracy;
  accuracy.rows = static_cast<int>(rows_.size());
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    const std::int64_t at = rows_[r].token * out.strides[0] + rows_[r].head * out.strides[1];
    for (std::int64_t d = 0; d < out.shape[2]; ++d) {
      const std::size_t i = r * static_cast<std::size_t>(out.shape[2]) + static_cast<std::size_t>(d);
      compare_element(accuracy, load_element(out.data, out.dtype, at + d * out.strides[2]), expected_.out[i],
                      expected_.bound[i]);
    }
    if (lse.empty()) continue;
    const std::int64_t lse_at = rows_[r].token * lse.strides[0] + rows_[r].head * lse.strides[1];
    compare_element(accuracy, load_element(lse.data, lse.dtype, lse_at), expected_.lse[r],
                    expected_.lse_bound[r] * lse_bound_factor);
  }
  return accuracy;
}

Accuracy compare_with_reference(const Computed& computed, int num_rows, std::uint64_t seed) {
  return Oracle(computed, num_rows, seed).compare();
}

}  // namespace trunkline::tools
