#include "kernels/cuda/divisor.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>

namespace trunkline::test {
namespace {

TEST(CudaDivisor, DividesAsDivisionDoes) {
  using kernels::cuda::Divisor;
  constexpr std::int32_t most = std::numeric_limits<std::int32_t>::max();
  for (std::int32_t divisor = 1; divisor <= 1100; ++divisor) {
    const Divisor by = Divisor::of(divisor);
    const auto expect = [&](std::int32_t number) {
      ASSERT_EQ(by.quotient(number), number / divisor) << number << " / " << divisor;
      ASSERT_EQ(by.remainder(number), number % divisor) << number << " % " << divisor;
    };
    for (std::int32_t number = 0; number < 4096; ++number) expect(number);
    for (std::int32_t i = 0; i < 64; ++i) {  // around multiples, where a wrong rounding shows first
      const std::int32_t multiple = most / divisor / 64 * (i + 1) * divisor;
      expect(multiple);
      expect(multiple - 1);
      expect(most - i);
    }
  }
}

}  // namespace
}  // namespace trunkline::test
