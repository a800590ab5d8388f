// The number formats bit by bit: value of stored bits, rounding to nearest even, unit in the last place. Plain enough
// to be checked by eye, and the only such code that the oracle trusts.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "trunkline/tensor.hpp"

namespace trunkline::reference {

struct Format {
  int mantissa_bits;  // stored, without the leading one
  int min_exponent;   // of the smallest normal number
  int max_exponent;   // of the largest finite number
};

constexpr Format format_of(DType dtype) {
  switch (dtype) {
    case DType::float16:
      return {10, -14, 15};
    case DType::bfloat16:
      return {7, -126, 127};
    default:
      return {23, -126, 127};
  }
}

/// Largest relative error of rounding to the format: half an ulp of 1.
inline double unit_roundoff(DType dtype) { return std::ldexp(1.0, -format_of(dtype).mantissa_bits - 1); }

/// The distance of neighbouring numbers of the format at |value|; below the smallest normal number it stays the same.
inline double ulp(DType dtype, double value) {
  const Format format = format_of(dtype);
  const int exponent = value == 0.0 ? format.min_exponent : std::max(std::ilogb(value), format.min_exponent);
  return std::ldexp(1.0, exponent - format.mantissa_bits);
}

/// The number of the format nearest to value, ties to even. Overflow gives an infinity.
inline double round_to(DType dtype, double value) {
  if (!std::isfinite(value)) return value;
  const Format format = format_of(dtype);
  const double quantum = ulp(dtype, value);
  const double rounded = std::nearbyint(value / quantum) * quantum;  // both steps exact but for the rounding itself
  const double limit = std::ldexp(1.0, format.max_exponent + 1);
  return std::fabs(rounded) < limit ? rounded : std::copysign(std::numeric_limits<double>::infinity(), rounded);
}

inline float bfloat16_value(std::uint16_t bits) { return std::bit_cast<float>(std::uint32_t{bits} << 16); }

inline float float16_value(std::uint16_t bits) {
  const std::uint32_t sign = std::uint32_t{bits} >> 15, exponent = (bits >> 10) & 31u, mantissa = bits & 1023u;
  if (exponent == 0) {  // zero and subnormal: mantissa * 2^-24
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  const std::uint32_t wide = exponent == 31 ? 255 : exponent + (127 - 15);  // infinity and NaN keep the top exponent
  return std::bit_cast<float>(sign << 31 | wide << 23 | mantissa << 13);
}

/// Element i of an array of the dtype. Exact.
inline float load(DType dtype, const void* data, std::int64_t i) {
  if (dtype == DType::float32) return static_cast<const float*>(data)[i];
  const std::uint16_t bits = static_cast<const std::uint16_t*>(data)[i];
  return dtype == DType::float16 ? float16_value(bits) : bfloat16_value(bits);
}

/// Stores value, which is a number of the dtype already (see round_to), as element i. For tests and their data.
inline void store(DType dtype, void* data, std::int64_t i, float value) {
  if (dtype == DType::float32) {
    static_cast<float*>(data)[i] = value;
    return;
  }
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value), sign = bits >> 16 & 0x8000u;
  std::uint32_t stored = bits >> 16;
  if (dtype == DType::float16) {
    const double magnitude = std::fabs(double{value});
    if (std::isnan(value) || std::isinf(value)) {
      stored = sign | 0x7C00u | (std::isnan(value) ? 0x200u : 0u);
    } else if (magnitude < 0x1p-14) {
      stored = sign | static_cast<std::uint32_t>(magnitude * 0x1p24);
    } else {
      stored = sign | (((bits & 0x7FFFFFFFu) >> 13) - ((127u - 15u) << 10));
    }
  }
  static_cast<std::uint16_t*>(data)[i] = static_cast<std::uint16_t>(stored);
}

}  // namespace trunkline::reference
