#include "emulator/products.hpp"

#include <memory>

namespace trunkline::emulator {

float to_float(std::uint16_t bits, __half) {
  static const auto table = [] {
    auto all = std::make_unique<std::array<float, 65536>>();
    for (unsigned i = 0; i < 65536; ++i) {
      const __half_raw raw{static_cast<unsigned short>(i)};
      (*all)[i] = __half2float(__half(raw));
    }
    return all;
  }();
  return (*table)[bits];
}

float to_float(std::uint16_t bits, __nv_bfloat16) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

}  // namespace trunkline::emulator
