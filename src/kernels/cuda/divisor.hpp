// Division by a number that the host knows and the device does not: a multiplication and a shift.
#pragma once

#include <bit>
#include <cstdint>

#ifdef __CUDACC__
#define TRUNKLINE_DEVICE __device__ __forceinline__
#else
#define TRUNKLINE_DEVICE inline
#endif

namespace trunkline::kernels::cuda {

/// Of numbers from 0 to 2^31 - 1, by 1 to 2^30. With 2^(bits - 1) < divisor <= 2^bits and m = ceil(2^(31 + bits) /
/// divisor), the error of n * m / 2^(31 + bits) stays below 1 / divisor (Granlund and Montgomery, 1994).
struct Divisor {
  std::uint32_t multiplier = 0;
  std::int32_t shift = 0;
  std::int32_t divisor = 0;

  static Divisor of(std::int32_t divisor) {
    const int bits = std::bit_width(static_cast<std::uint32_t>(divisor) - 1);
    const std::uint64_t power = std::uint64_t{1} << (31 + bits), by = static_cast<std::uint64_t>(divisor);
    return {static_cast<std::uint32_t>((power + by - 1) / by), 31 + bits, divisor};
  }
  TRUNKLINE_DEVICE std::int32_t quotient(std::int32_t number) const {
    return static_cast<std::int32_t>(static_cast<std::uint64_t>(static_cast<std::uint32_t>(number)) * multiplier >>
                                     shift);
  }
  TRUNKLINE_DEVICE std::int32_t remainder(std::int32_t number) const { return number - quotient(number) * divisor; }
};

}  // namespace trunkline::kernels::cuda

#undef TRUNKLINE_DEVICE
