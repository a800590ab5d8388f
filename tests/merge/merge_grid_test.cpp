// Hydragen's merge grid: every small batch, sequence and head count, head_dim at and beside powers of two, element by
// element against double precision, in every dtype.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <span>
#include <tuple>
#include <vector>

#include "kernels/reference/formats.hpp"
#include "trunkline/merge.hpp"

namespace trunkline {
namespace {

using MergeCase = std::tuple<int, int, int, int, DType>;  // batch, sequence, heads, head_dim, dtype

class HydragenMergeGrid : public testing::TestWithParam<MergeCase> {};

/// n numbers of the dtype, as values; stored() makes the bits of them.
std::vector<float> normal_values(std::mt19937& random, DType dtype, std::size_t n, float deviation) {
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<float> values(n);
  for (float& value : values) value = static_cast<float>(reference::round_to(dtype, normal(random)));
  return values;
}

std::vector<std::byte> stored(const std::vector<float>& values, DType dtype) {
  std::vector<std::byte> bytes(values.size() * size_of(dtype));
  for (std::size_t i = 0; i < values.size(); ++i)
    reference::store(dtype, bytes.data(), static_cast<std::int64_t>(i), values[i]);
  return bytes;
}

/// The weighted mean as it is written down: weights relative to the larger lse, a sum, one division.
template <class Number>
std::vector<Number> textbook_merge(std::span<const float> a, float lse_a, std::span<const float> b, float lse_b) {
  const Number high = std::max(lse_a, lse_b);
  const Number weight_a = std::exp(Number{lse_a} - high), weight_b = std::exp(Number{lse_b} - high);
  std::vector<Number> merged;
  for (std::size_t i = 0; i < a.size(); ++i) {
    merged.push_back((weight_a * Number{a[i]} + weight_b * Number{b[i]}) / (weight_a + weight_b));
  }
  return merged;
}

TEST_P(HydragenMergeGrid, EveryElementWithinBounds) {
  const auto [batch, sequence, heads, head_dim, dtype] = GetParam();
  const std::int64_t n = batch * sequence;
  const auto rows = static_cast<std::size_t>(n * heads), elements = rows * static_cast<std::size_t>(head_dim);
  std::mt19937 random(static_cast<unsigned>(n * 1000 + heads * 100 + head_dim));
  std::vector<float> a = normal_values(random, dtype, elements, 1.0f), b = normal_values(random, dtype, elements, 1.0f);
  std::vector<float> lse_a = normal_values(random, DType::float32, rows, 3.0f);
  std::vector<float> lse_b = normal_values(random, DType::float32, rows, 3.0f);
  std::vector<std::byte> a_bytes = stored(a, dtype), b_bytes = stored(b, dtype);
  std::vector<std::byte> out_bytes(elements * size_of(dtype), std::byte{0xFF});
  std::vector<float> lse(rows, std::nanf(""));

  const auto out_view = [&](std::vector<std::byte>& bytes) {
    return contiguous(bytes.data(), dtype, {n, heads, head_dim, 0}, 3);
  };
  const auto lse_view = [&](std::vector<float>& values) {
    return contiguous(values.data(), DType::float32, {n, heads, 0, 0}, 2);
  };
  merge_states(out_view(a_bytes), lse_view(lse_a), out_view(b_bytes), lse_view(lse_b), out_view(out_bytes),
               lse_view(lse));

  const auto width = static_cast<std::size_t>(head_dim);
  for (std::size_t row = 0; row < rows; ++row) {
    const float difference = std::fabs(lse_a[row] - lse_b[row]);
    const double high = std::max(lse_a[row], lse_b[row]);
    const double exact_lse = high + std::log1p(std::exp(std::min(lse_a[row], lse_b[row]) - high));
    // 2 ulp of f32 at the larger of the two numbers that lse is the sum of, and what the rounding of the difference of
    // the two lse, off by at most |difference| * 2^-24, moves the smaller side's share by.
    const double share = std::exp(std::min(lse_a[row], lse_b[row]) - exact_lse);
    EXPECT_NEAR(lse[row], exact_lse,
                2 * reference::ulp(DType::float32, std::max(std::fabs(high), std::fabs(exact_lse))) +
                    share * difference * 0x1p-24);

    const std::span<const float> row_a(a.data() + row * width, width), row_b(b.data() + row * width, width);
    const std::vector<double> exact = textbook_merge<double>(row_a, lse_a[row], row_b, lse_b[row]);
    const std::vector<float> naive = textbook_merge<float>(row_a, lse_a[row], row_b, lse_b[row]);
    // The naive evaluation's error, and, since it may be right by luck, what a rounded difference (off by up to
    // |difference| * 2^-24), exp, sum and quotient (2^-24 each) make of a weight.
    double error = 0;
    for (std::size_t i = 0; i < width; ++i) {
      const double moved = share * (1 - share) * std::fabs(double{row_a[i]} - row_b[i]) * (difference + 3) * 0x1p-24;
      error = std::max({error, moved, std::fabs(reference::round_to(dtype, naive[i]) - exact[i])});
    }
    for (std::size_t i = 0; i < width; ++i) {
      EXPECT_NEAR(reference::load(dtype, out_bytes.data(), static_cast<std::int64_t>(row * width + i)), exact[i],
                  std::max(2 * error, 2 * reference::ulp(dtype, exact[i])));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Short, HydragenMergeGrid,
                         testing::Combine(testing::Values(1, 2, 3), testing::Values(1, 2, 3), testing::Values(1, 2, 3),
                                          testing::Values(63, 64, 128, 129),
                                          testing::Values(DType::float32, DType::float16, DType::bfloat16)));

}  // namespace
}  // namespace trunkline
