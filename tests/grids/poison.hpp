// What marks memory that must not be read or written: all bits set, a NaN in every floating-point format.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace trunkline::grids {

inline constexpr std::byte poison{0xFF};

inline float poisoned_float() { return std::bit_cast<float>(~std::uint32_t{0}); }
inline bool is_poison(float value) { return std::bit_cast<std::uint32_t>(value) == ~std::uint32_t{0}; }

}  // namespace trunkline::grids
