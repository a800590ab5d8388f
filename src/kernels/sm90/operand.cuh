// Descriptors of wgmma's operands in shared memory.
#pragma once

#include <cassert>
#include <cstdint>

namespace trunkline::kernels::sm90 {

/// Descriptor of an operand in shared memory. K-major (rows contiguous along the reduction): `stride` is the distance
/// of neighbouring 8-row tiles. MN-major: `leading` is the distance of neighbouring 64-element tiles along M or N,
/// `stride` that of 8-row tiles along the reduction. Bytes, multiples of 16; addresses may advance in steps of 16
/// bytes.
__device__ __forceinline__ std::uint64_t operand(std::uint32_t address, std::uint32_t leading, std::uint32_t stride) {
  assert(((address | leading | stride) & 15) == 0);
  constexpr std::uint64_t swizzle_128 = 1;
  return static_cast<std::uint64_t>((address & 0x3FFFF) >> 4) | (static_cast<std::uint64_t>(leading >> 4) << 16) |
         (static_cast<std::uint64_t>(stride >> 4) << 32) | (swizzle_128 << 62);
}

/// The operand `bytes` further on. Its address does not carry out of the descriptor's low word.
__device__ __forceinline__ std::uint64_t advanced(std::uint64_t operand, std::uint32_t bytes) {
  assert(bytes % 16 == 0);
  return (operand & ~std::uint64_t{0xFFFFFFFF}) | (static_cast<std::uint32_t>(operand) + (bytes >> 4));
}

}  // namespace trunkline::kernels::sm90
