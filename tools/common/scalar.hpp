// Single elements of 16-bit formats, for filling and checking; kernels have their own, vectorised ones.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "trunkline/tensor.hpp"

namespace trunkline::tools {

/// Round to nearest, ties to even; finite input.
inline std::uint16_t bfloat16_bits(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
inline float from_bfloat16_bits(std::uint16_t bits) { return std::bit_cast<float>(std::uint32_t{bits} << 16); }

/// Round to nearest, ties to even; |value| below 65520, the first that would round to infinity.
inline std::uint16_t float16_bits(float value) {
  const std::uint32_t sign = (std::bit_cast<std::uint32_t>(value) >> 16) & 0x8000;
  const float magnitude = std::fabs(value);
  // A float16's ulp is 2^-24 below 2^-14 and grows with the exponent above. Scaled by it, the value is an integer.
  const int exponent = magnitude == 0.0f ? -14 : std::max(std::ilogb(magnitude), -14);
  const auto steps = static_cast<std::uint32_t>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
  // steps is in [0, 2048]; its bit 10 is the hidden one, and a carry out of the mantissa raises the exponent by itself.
  return static_cast<std::uint16_t>(sign | ((static_cast<std::uint32_t>(exponent + 14) << 10) + steps));
}
inline float from_float16_bits(std::uint16_t bits) {
  const float sign = (bits & 0x8000) != 0 ? -1.0f : 1.0f;
  const int exponent = (bits >> 10) & 31;
  const int mantissa = bits & 1023;
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(mantissa), -24);
  if (exponent == 31) return mantissa == 0 ? sign * INFINITY : NAN;
  return sign * std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
}

/// Element `index` of an array of float32, float16 or bfloat16.
inline double load_element(const void* data, DType dtype, std::int64_t index) {
  if (dtype == DType::float32) return static_cast<const float*>(data)[index];
  const std::uint16_t bits = static_cast<const std::uint16_t*>(data)[index];
  return dtype == DType::float16 ? from_float16_bits(bits) : from_bfloat16_bits(bits);
}

}  // namespace trunkline::tools
