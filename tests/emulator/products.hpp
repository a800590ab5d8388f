// Matrix products: what the lanes of a warp bring and get, fragment by fragment.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <array>
#include <bit>
#include <cstdint>

#include "emulator/device.hpp"

namespace trunkline::emulator {

float to_float(std::uint16_t bits, __half);
float to_float(std::uint16_t bits, __nv_bfloat16);

template <class T>
float low_half(std::uint32_t word) {
  return to_float(static_cast<std::uint16_t>(word), T());
}
template <class T>
float high_half(std::uint32_t word) {
  return to_float(static_cast<std::uint16_t>(word >> 16), T());
}

/// The 16 x 16 operand A of lanes that hold a[0] (g, 2t), a[1] (g + 8, 2t), a[2] (g, 2t + 8), a[3] (g + 8, 2t + 8) and
/// the elements behind those, with g = lane / 4 and t = lane % 4.
template <class T>
void spread_a(const std::uint32_t (&a)[4], int lane, float (&to)[16][16]) {
  for (int i = 0; i < 4; ++i) {
    float* const at = &to[lane / 4 + i % 2 * 8][lane % 4 * 2 + i / 2 * 8];
    at[0] = low_half<T>(a[i]);
    at[1] = high_half<T>(a[i]);
  }
}

/// Element (row, k) of an operand that a wgmma descriptor names: in 128-byte swizzled tiles of 8 rows, K-major or
/// (transposed) MN-major.
template <bool transposed>
std::uint16_t operand_element(std::uint64_t descriptor, int row, int k, Place place = Place::current()) {
  const auto field = [&](int shift) { return static_cast<std::uint32_t>(descriptor >> shift & 0x3FFF) << 4; };
  const std::uint32_t start = field(0), leading = field(16), stride = field(32);
  if (descriptor >> 62 != 1) fail("only operands of 128-byte swizzled tiles are emulated", place);
  if ((start >> 7 & 7) != 0) fail("an operand that does not begin in the first row of a tile", place);
  const int outer = transposed ? row / 64 : 0, eights = transposed ? k / 8 : row / 8;
  const int line = (transposed ? k : row) % 8, in_line = transposed ? row % 64 : k;
  const std::uint32_t at = start + static_cast<std::uint32_t>(outer) * leading +
                           static_cast<std::uint32_t>(eights) * stride +
                           static_cast<std::uint32_t>(line * 128 + in_line * 2);
  return *reinterpret_cast<const std::uint16_t*>(shared_memory(at ^ (at >> 7 & 7) << 4, 2, place));
}

/// A warp's 16 rows of D[64, N] += A[64, 16] B[16, N].
template <class T, int N, bool a_in_registers, bool transposed_a, bool transposed_b>
void multiply(const std::array<const Product*, warp_size>& lanes) {
  const Product& all = *lanes[0];
  const int first_row = static_cast<int>(built_in().thread.x / warp_size % 4) * 16;
  float a[16][16], b[16][N], d[16][N] = {};
  if constexpr (a_in_registers) {
    for (int lane = 0; lane < warp_size; ++lane) spread_a<T>(lanes[lane]->a, lane, a);
  } else {
    for (int row = 0; row < 16; ++row) {
      for (int k = 0; k < 16; ++k) {
        a[row][k] = to_float(operand_element<transposed_a>(all.a_at, first_row + row, k, all.place), T());
      }
    }
  }
  for (int k = 0; k < 16; ++k) {
    for (int n = 0; n < N; ++n) b[k][n] = to_float(operand_element<transposed_b>(all.b_at, n, k, all.place), T());
  }
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < 16; ++k) {
      for (int n = 0; n < N; ++n) d[row][n] += a[row][k] * b[k][n];
    }
  }
  for (int lane = 0; lane < warp_size; ++lane) {
    float* const mine = lanes[lane]->d;
    for (int i = 0; i < N / 2; ++i) {
      const float sum = d[lane / 4 + i / 2 % 2 * 8][i / 4 * 8 + lane % 4 * 2 + i % 2];
      mine[i] = all.accumulate ? mine[i] + sum : sum;
    }
  }
}

}  // namespace trunkline::emulator
