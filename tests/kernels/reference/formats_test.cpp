// The oracle's number formats against values known from the formats' definitions.
#include "kernels/reference/formats.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>

namespace trunkline::reference {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

TEST(ReferenceFormats, Float16Values) {
  EXPECT_EQ(float16_value(0x0000), 0.0f);
  EXPECT_TRUE(std::signbit(float16_value(0x8000)));
  EXPECT_EQ(float16_value(0x0001), 0x1p-24f);  // smallest subnormal
  EXPECT_EQ(float16_value(0x83FF), -1023 * 0x1p-24f);
  EXPECT_EQ(float16_value(0x0400), 0x1p-14f);  // smallest normal
  EXPECT_EQ(float16_value(0x3C00), 1.0f);
  EXPECT_EQ(float16_value(0x3555), 1365.0f / 4096);  // nearest to a third
  EXPECT_EQ(float16_value(0xC000), -2.0f);
  EXPECT_EQ(float16_value(0x7BFF), 65504.0f);
  EXPECT_EQ(float16_value(0x7C00), infinity);
  EXPECT_EQ(float16_value(0xFC00), -infinity);
  EXPECT_TRUE(std::isnan(float16_value(0x7E00)));
}

TEST(ReferenceFormats, BFloat16Values) {
  EXPECT_EQ(bfloat16_value(0x3F80), 1.0f);
  EXPECT_EQ(bfloat16_value(0xC049), -3.140625f);
  EXPECT_EQ(bfloat16_value(0x0001), 0x1p-133f);
  EXPECT_EQ(bfloat16_value(0x7F7F), 255 * 0x1p120f);
  EXPECT_EQ(bfloat16_value(0x7F80), infinity);
}

TEST(ReferenceFormats, UlpAtAndBesidePowersOfTwo) {
  EXPECT_EQ(ulp(DType::float32, 1.0), 0x1p-23);
  EXPECT_EQ(ulp(DType::float32, std::nextafter(1.0f, 0.0f)), 0x1p-24);
  EXPECT_EQ(ulp(DType::float16, -3.0), 0x1p-9);
  EXPECT_EQ(ulp(DType::bfloat16, 1e-3), 0x1p-17);
  EXPECT_EQ(ulp(DType::float16, 0.0), 0x1p-24);  // as at the smallest normal number
  EXPECT_EQ(ulp(DType::float16, 1e-7), 0x1p-24);
  EXPECT_EQ(ulp(DType::bfloat16, 0.0), 0x1p-133);
  EXPECT_EQ(unit_roundoff(DType::bfloat16), 0x1p-8);
}

TEST(ReferenceFormats, RoundsToNearestEven) {
  EXPECT_EQ(round_to(DType::bfloat16, 1 + 0x1p-8), 1.0);
  EXPECT_EQ(round_to(DType::bfloat16, 1 + 3 * 0x1p-8), 1 + 0x1p-6);
  EXPECT_EQ(round_to(DType::bfloat16, 1 + 0x1p-8 + 0x1p-40), 1 + 0x1p-7);
  EXPECT_EQ(round_to(DType::float16, 65519.0), 65504.0);
  EXPECT_EQ(round_to(DType::float16, 65520.0), infinity);
  EXPECT_EQ(round_to(DType::float16, -1e9), -infinity);
  EXPECT_EQ(round_to(DType::float16, 0x1p-25), 0.0);
  EXPECT_EQ(round_to(DType::float16, 3 * 0x1p-25), 0x1p-23);
  EXPECT_TRUE(std::isnan(round_to(DType::float16, std::nan(""))));
}

TEST(ReferenceFormats, RoundingToFloat32IsTheCompilers) {
  for (int i = 0; i < 100000; ++i) {
    const double value = std::ldexp(1.0 + i * 1e-5 + i * 1e-13, i % 300 - 150) * (i % 2 == 0 ? 1 : -1);
    EXPECT_EQ(round_to(DType::float32, value), static_cast<double>(static_cast<float>(value)));
  }
}

TEST(ReferenceFormats, StoreIsTheInverseOfLoad) {
  for (const DType dtype : {DType::float16, DType::bfloat16}) {
    for (std::uint32_t bits = 0; bits < 65536; ++bits) {
      std::uint16_t before[2] = {static_cast<std::uint16_t>(bits)}, after[2] = {};
      const float value = load(dtype, before, 0);
      EXPECT_TRUE(std::isnan(value) || round_to(dtype, value) == value);
      store(dtype, after, 0, value);
      if (std::isnan(value)) {
        EXPECT_TRUE(std::isnan(load(dtype, after, 0)));
      } else {
        EXPECT_EQ(after[0], before[0]);
      }
    }
  }
}

}  // namespace
}  // namespace trunkline::reference
