// Holding results to the reference's.
#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>

#include "grids/harness.hpp"
#include "grids/poison.hpp"
#include "kernels/reference/formats.hpp"

namespace trunkline::grids {
namespace {

/// error / bound, where a bound of 0 asks for the value itself and NaN is infinitely wrong.
double relative_error(double actual, double exact, double bound) {
  if (actual == exact) return 0.0;
  const double error = std::fabs(actual - exact);
  return error < std::numeric_limits<double>::infinity() && bound > 0 ? error / bound
                                                                      : std::numeric_limits<double>::infinity();
}

/// One number that was compared.
struct Compared {
  double error = 0;  // relative to the bound
  double actual = 0, exact = 0, bound = 0;
};

std::ostream& operator<<(std::ostream& stream, const Compared& one) {
  return stream << one.actual << ", exactly " << one.exact << " with a bound of " << one.bound << ": off by "
                << one.error << " of it";
}

Compared compared(double actual, double exact, double bound) {
  return {relative_error(actual, exact, bound), actual, exact, bound};
}

}  // namespace

Verdict Problem::compare(const Results& results, double lse_bound_factor) const {
  Verdict verdict;
  std::ostringstream worst;
  std::size_t num_wrong = 0;
  const auto note = [&](const Compared& one, const ReferenceRow& row, const std::string& name) {
    num_wrong += one.error <= 1.0 ? 0 : 1;
    if (one.error > 1.0 && one.error > verdict.worst) {
      worst.str("");
      worst << name << " of token " << row.token << ", head " << row.head << " is " << one;
    }
    verdict.worst = std::max(verdict.worst, one.error);
  };
  const auto dim = static_cast<std::size_t>(shape_.head_dim);
  const TensorView& out = results.out.view;
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    const ReferenceRow& row = rows_[i];
    const auto lse_index = static_cast<std::size_t>(row.token) * static_cast<std::size_t>(shape_.num_qo_heads) +
                           static_cast<std::size_t>(row.head);
    note(compared(results.lse[lse_index], expected_.lse[i], expected_.lse_bound[i] * lse_bound_factor), row, "lse");
    Compared largest;
    std::size_t element = 0;
    const std::int64_t first = row.token * out.strides[0] + row.head * out.strides[1];
    for (std::size_t j = 0; j < dim; ++j) {
      const float actual = reference::load(shape_.q_dtype, out.data, first + static_cast<std::int64_t>(j));
      const Compared one = compared(actual, expected_.out[i * dim + j], expected_.bound[i * dim + j]);
      if (j == 0 || one.error > largest.error) largest = one, element = j;
    }
    note(largest, row, "element " + std::to_string(element) + " of out");
  }
  if (num_wrong > 0) {
    verdict.wrong =
        std::to_string(num_wrong) + " of " + std::to_string(2 * rows_.size()) + " rows of out and lse, " + worst.str();
  } else {
    verdict.wrong = check_unsampled(results);
  }
  return verdict;
}

/// Rows that were not compared hold numbers, and everything that is not a result keeps its poison.
std::string Problem::check_unsampled(const Results& results) const {
  std::vector<std::byte> rest = results.out.memory;  // with the results poisoned again
  const TensorView& out = results.out.view;
  const auto offset = static_cast<const std::byte*>(out.data) - results.out.memory.data();
  const std::size_t row_bytes = static_cast<std::size_t>(shape_.head_dim) * size_of(shape_.q_dtype);
  const std::int64_t num_tokens = batch_.num_query_tokens();
  for (std::int64_t token = 0; token < num_tokens; ++token) {
    for (std::int64_t head = 0; head < shape_.num_qo_heads; ++head) {
      const std::int64_t first = token * out.strides[0] + head * out.strides[1];
      bool is_number = !std::isnan(results.lse[static_cast<std::size_t>(token * shape_.num_qo_heads + head)]);
      for (int i = 0; i < shape_.head_dim && is_number; ++i) {
        is_number = !std::isnan(reference::load(shape_.q_dtype, out.data, first + i));
      }
      if (!is_number) {
        return "the result of token " + std::to_string(token) + ", head " + std::to_string(head) + " is not a number";
      }
      const auto at = rest.begin() + offset + first * static_cast<std::int64_t>(size_of(shape_.q_dtype));
      std::fill_n(at, row_bytes, poison);
    }
  }
  if (!std::all_of(rest.begin(), rest.end(), [](std::byte byte) { return byte == poison; })) {
    return "out was written beside its rows";
  }
  const auto padding = results.lse.begin() + num_tokens * shape_.num_qo_heads;
  if (!std::all_of(padding, results.lse.end(), is_poison)) return "lse of a padding row was written";
  return {};
}

}  // namespace trunkline::grids
