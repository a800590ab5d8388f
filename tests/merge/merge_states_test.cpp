// merge_states as a public call: strides, in-place results, number formats, and what it refuses.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/reference/formats.hpp"
#include "trunkline/error.hpp"
#include "trunkline/merge.hpp"

namespace trunkline {
namespace {

using testing::HasSubstr;

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();

/// Two states of 2 tokens, 3 heads, head_dim 4 in f32, and room for a result.
struct Fixture : testing::Test {
  static constexpr std::int64_t n = 2, heads = 3, head_dim = 4;
  std::vector<float> a = std::vector<float>(n * heads * head_dim, 1.0f);
  std::vector<float> b = std::vector<float>(n * heads * head_dim, 3.0f);
  std::vector<float> result = std::vector<float>(n * heads * head_dim, nan);
  std::vector<float> lse_a = std::vector<float>(n * heads, 2.0f), lse_b = lse_a,
                     lse_result = std::vector<float>(n * heads, nan);

  static TensorView out_of(std::vector<float>& values) {
    return contiguous(values.data(), DType::float32, {n, heads, head_dim, 0}, 3);
  }
  static TensorView lse_of(std::vector<float>& values) {
    return contiguous(values.data(), DType::float32, {n, heads, 0, 0}, 2);
  }
  TensorView out_a = out_of(a), out_b = out_of(b), out = out_of(result);
  TensorView la = lse_of(lse_a), lb = lse_of(lse_b), l = lse_of(lse_result);

  void merge() const { merge_states(out_a, la, out_b, lb, out, l); }

  /// The call throws, the message holds every text, and nothing was written.
  template <class... Text>
  void expect_refused(ErrorCode code, Text... texts) {
    const std::vector<float> a_before = a, b_before = b;
    try {
      merge();
      ADD_FAILURE() << "not refused";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code);
      for (const char* text : {texts...}) EXPECT_THAT(error.what(), HasSubstr(text));
    }
    EXPECT_EQ(a, a_before);
    EXPECT_EQ(b, b_before);
    for (const float value : result) EXPECT_TRUE(std::isnan(value));
    for (const float value : lse_result) EXPECT_TRUE(std::isnan(value));
  }
};
using MergeStates = Fixture;

TEST_F(MergeStates, WritesOutAndLse) {
  merge();
  EXPECT_THAT(result, testing::Each(2.0f));
  EXPECT_THAT(lse_result, testing::Each(testing::FloatEq(2.0f + std::log(2.0f))));
}

TEST_F(MergeStates, LseMayBeLeftOut) {
  l = {};
  merge();
  EXPECT_THAT(result, testing::Each(2.0f));
}

TEST_F(MergeStates, EmptySideIsNotRead) {
  std::fill(b.begin(), b.end(), nan);
  std::fill(lse_b.begin(), lse_b.end(), -infinity);
  merge();
  EXPECT_EQ(result, a);
  EXPECT_EQ(lse_result, lse_a);
}

TEST_F(MergeStates, BothSidesEmptyGiveZero) {
  std::fill(a.begin(), a.end(), nan);
  std::fill(b.begin(), b.end(), infinity);
  std::fill(lse_a.begin(), lse_a.end(), -infinity);
  std::fill(lse_b.begin(), lse_b.end(), -infinity);
  merge();
  EXPECT_THAT(result, testing::Each(0.0f));
  EXPECT_THAT(lse_result, testing::Each(-infinity));
}

TEST_F(MergeStates, InPlaceOverAOrB) {
  std::iota(a.begin(), a.end(), 0.0f);
  std::iota(lse_b.begin(), lse_b.end(), 0.0f);
  merge();
  const std::vector<float> apart = result, lse_apart = lse_result, b_before = b, lse_b_before = lse_b;
  out = out_b, l = lb;
  merge();
  EXPECT_EQ(b, apart);
  EXPECT_EQ(lse_b, lse_apart);
  b = b_before, lse_b = lse_b_before;
  out = out_a, l = la;
  merge();
  EXPECT_EQ(a, apart);
  EXPECT_EQ(lse_a, lse_apart);
}

TEST_F(MergeStates, AStateWithItselfIsItself) {
  std::iota(a.begin(), a.end(), 0.0f);
  const std::vector<float> before = a;
  out_b = out_a, lb = la, out = out_a;
  merge();
  EXPECT_EQ(a, before);
}

TEST_F(MergeStates, StridesAreFollowedAndGapsAreLeftAlone) {
  // Heads before tokens, rows 6 apart: [heads, n, 6] with 4 used.
  std::vector<float> wide(heads * n * 6, nan), wide_lse(heads * n * 2, nan);
  std::iota(a.begin(), a.end(), 0.0f);
  std::iota(lse_a.begin(), lse_a.end(), -3.0f);
  merge();
  out.data = wide.data(), out.strides = {6, n * 6, 1, 0};
  l.data = wide_lse.data(), l.strides = {2, n * 2, 0, 0};
  merge();
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t h = 0; h < heads; ++h) {
      for (std::int64_t j = 0; j < 6; ++j) {
        const float value = wide[static_cast<std::size_t>(h * n * 6 + i * 6 + j)];
        if (j >= head_dim) {
          EXPECT_TRUE(std::isnan(value));
        } else {
          EXPECT_EQ(value, result[static_cast<std::size_t>((i * heads + h) * head_dim + j)]);
        }
      }
      EXPECT_EQ(wide_lse[static_cast<std::size_t>(h * n * 2 + i * 2)],
                lse_result[static_cast<std::size_t>(i * heads + h)]);
      EXPECT_TRUE(std::isnan(wide_lse[static_cast<std::size_t>(h * n * 2 + i * 2 + 1)]));
    }
  }
}

TEST_F(MergeStates, ResultWovenIntoTheSameTensor) {
  // a and out are alternate rows of one array: the spans meet, the rows do not.
  std::vector<float> woven(n * heads * 2 * head_dim, 1.0f);
  out_a.data = woven.data();
  out.data = woven.data() + head_dim;
  out_a.strides = out.strides = {heads * 2 * head_dim, 2 * head_dim, 1, 0};
  merge();
  for (std::size_t i = 0; i < woven.size(); ++i) EXPECT_EQ(woven[i], i / head_dim % 2 == 0 ? 1.0f : 2.0f);
}

TEST_F(MergeStates, NoRowsIsNothing) {
  for (TensorView* view : {&out_a, &out_b, &out})
    *view = contiguous(nullptr, DType::float32, {0, heads, head_dim, 0}, 3);
  for (TensorView* view : {&la, &lb, &l}) *view = contiguous(nullptr, DType::float32, {0, heads, 0, 0}, 2);
  EXPECT_NO_THROW(merge());
}

TEST_F(MergeStates, RefusesWrongShapes) {
  out_b.shape[1] = 2;
  expect_refused(ErrorCode::invalid_argument, "out_b.shape", "[2, 3, 4]", "[2, 2, 4]");
  out_b = out_of(b);
  lb.shape[0] = 1;
  expect_refused(ErrorCode::invalid_argument, "lse_b.shape", "[2, 3]", "[1, 3]");
  lb = lse_of(lse_b);
  out.rank = 2;
  expect_refused(ErrorCode::invalid_argument, "out.rank", "expected 3", "got 2");
}

TEST_F(MergeStates, RefusesWrongDtypes) {
  out_b.dtype = DType::float16;
  expect_refused(ErrorCode::invalid_argument, "out_b.dtype", "float32", "float16");
  out_b.dtype = DType::float32;
  la.dtype = DType::bfloat16;
  expect_refused(ErrorCode::invalid_argument, "lse_a.dtype", "float32", "bfloat16");
  la.dtype = DType::float32;
  out_a.dtype = out_b.dtype = out.dtype = DType::float8_e4m3;
  expect_refused(ErrorCode::unsupported, "out_a.dtype", "float8_e4m3");
}

TEST_F(MergeStates, RefusesStridedHeadDimNullAndOtherDevices) {
  out_a.strides[2] = 2;
  expect_refused(ErrorCode::invalid_argument, "out_a.strides[2]", "got 2");
  out_a = out_of(a);
  la.data = nullptr;
  expect_refused(ErrorCode::invalid_argument, "lse_a.data", "null");
  la = lse_of(lse_a);
  out_b.device = {DeviceKind::cuda, 1};
  expect_refused(ErrorCode::invalid_argument, "out_b.device", "cpu", "cuda:1");
}

TEST_F(MergeStates, RefusesOverlaps) {
  out.data = a.data() + 1;
  expect_refused(ErrorCode::invalid_argument, "out: ", "out_a");
  out = out_a;
  out.strides = {0, head_dim, 1, 0};
  expect_refused(ErrorCode::invalid_argument, "out.strides", "do not overlap");
  out = out_of(result);
  l.data = a.data();
  expect_refused(ErrorCode::invalid_argument, "lse: ", "out_a");
  l.data = lse_a.data() + 1;
  l.shape[0] = la.shape[0] = lb.shape[0] = out_a.shape[0] = out_b.shape[0] = out.shape[0] = 1;
  expect_refused(ErrorCode::invalid_argument, "lse: ", "lse_a");
}

/// a merged with nothing is a: every 16-bit pattern goes through load and store.
TEST(MergeStatesFormats, EverySixteenBitNumberSurvives) {
  for (const DType dtype : {DType::float16, DType::bfloat16}) {
    std::vector<std::uint16_t> a(65536), b(65536), out(65536);
    std::iota(a.begin(), a.end(), std::uint16_t{0});
    std::vector<float> lse_a{0.0f}, lse_b{-infinity};
    const auto view = [&](std::vector<std::uint16_t>& bits) {
      return contiguous(bits.data(), dtype, {1, 1, 65536, 0}, 3);
    };
    const auto lse_view = [&](std::vector<float>& lse) {
      return contiguous(lse.data(), DType::float32, {1, 1, 0, 0}, 2);
    };
    merge_states(view(a), lse_view(lse_a), view(b), lse_view(lse_b), view(out), {});
    for (std::size_t i = 0; i < a.size(); ++i) {
      const float before = reference::load(dtype, a.data(), static_cast<std::int64_t>(i));
      const float after = reference::load(dtype, out.data(), static_cast<std::int64_t>(i));
      if (std::isnan(before)) {
        EXPECT_TRUE(std::isnan(after)) << i;
      } else {
        EXPECT_EQ(before, after) << to_string(dtype) << " bits " << i;
      }
    }
  }
}

/// Halfway points: the average of two neighbouring numbers rounds to the even one.
TEST(MergeStatesFormats, RoundsToNearestEven) {
  for (const DType dtype : {DType::float16, DType::bfloat16}) {
    const std::uint16_t largest = dtype == DType::float16 ? 0x7BFF : 0x7F7F;
    std::vector<std::uint16_t> a(largest), b(largest), out(largest);
    std::iota(a.begin(), a.end(), std::uint16_t{0});
    std::iota(b.begin(), b.end(), std::uint16_t{1});
    std::vector<float> lse{0.0f};
    const auto view = [&](std::vector<std::uint16_t>& bits) {
      return contiguous(bits.data(), dtype, {1, 1, static_cast<std::int64_t>(bits.size()), 0}, 3);
    };
    const TensorView lse_view = contiguous(lse.data(), DType::float32, {1, 1, 0, 0}, 2);
    merge_states(view(a), lse_view, view(b), lse_view, view(out), {});
    for (std::size_t i = 0; i < a.size(); ++i) {
      // At the bottom of bfloat16 f32 itself has few bits left and may round twice; from 2^-120 on it has enough.
      if (dtype == DType::bfloat16 && i < (7u << 7)) continue;
      EXPECT_EQ(out[i], i % 2 == 0 ? i : i + 1) << to_string(dtype) << " bits " << i;
    }
  }
}

TEST(MergeStatesFormats, OverflowOfFloat16GivesInfinityAndNanStaysNan) {
  std::vector<std::uint16_t> a{0x7BFF, 0x7C00, 0xFC00, 0x7E00}, out(4);
  std::vector<float> lse{0.0f};
  const auto view = [](std::vector<std::uint16_t>& bits) {
    return contiguous(bits.data(), DType::float16, {1, 1, 4, 0}, 3);
  };
  const TensorView lse_view = contiguous(lse.data(), DType::float32, {1, 1, 0, 0}, 2);
  merge_states(view(a), lse_view, view(a), lse_view, view(out), {});
  EXPECT_EQ(out[0], 0x7BFF);
  EXPECT_EQ(out[1], 0x7C00);
  EXPECT_EQ(out[2], 0xFC00);
  EXPECT_TRUE(std::isnan(reference::float16_value(out[3])));
}

}  // namespace
}  // namespace trunkline
